"""Runs that are trained once; tests get copies of them from the fixtures `runs` and `example_runs`."""

from pathlib import Path
from typing import NamedTuple

import tiny
from conftest import ROOT, Fit, at

from project.evaluate import main as evaluate
from project.fit import main as fit

BAD = "--model.optimizer.lr=1e-9"
# Options of trainings that are shorter than those of the YAML, and still learn something.
EXAMPLES = {
    "regression": "--max_epochs=1 --model.net.widths=[8,8,16,16] --model.optimizer.lr=0.01",
    "segmentation": "--trainer.max_steps=40 --model.net.width=6 --data.batch_size=16",
    "tabular": "--max_epochs=10",
    "multilabel": "--max_epochs=1 --model.net.widths=[8,16] --data.batch_size=16",
}


class Runs(NamedTuple):
    """Runs in one store, by what is special about them: their ids."""

    good: str
    same: str
    bad: str
    other_test_data: str
    not_evaluated: str


class ExampleRuns(NamedTuple):
    """Runs of the examples: their ids. Those of the regression are evaluated."""

    regression: str
    segmentation: str
    tabular: str
    multilabel: str
    worse_regression: str


def fitted(*options: str) -> str:
    """Train in the current folder; return the id of the run."""
    fit(options)
    return str(max(Fit(Path.cwd(), 0, "").runs, key=lambda run: run.info.start_time).info.run_id)


def train(folder: Path) -> Runs:
    """Train `Runs`. The split of train into train and val is no part of the test data, which the bad run shares."""

    def one(*options: str, data: str = "Many") -> str:
        return fitted(f"--data=tiny.{data}", *tiny.SERVED[1:], "--max_epochs=2", *options)

    with at(folder):
        runs = Runs(
            good=one(),
            same=one("--trainer.log_every_n_steps=7"),
            bad=one(BAD, "--data.split_seed=2"),
            other_test_data=one("--model.class_path=tiny.TinyTask", data="Others"),
            not_evaluated=one(BAD),
        )
        for run in runs[:-1]:
            evaluate([run])
    return runs


def train_examples(folder: Path) -> ExampleRuns:
    """Train `ExampleRuns`."""

    def one(name: str, *options: str) -> str:
        return fitted("--config", str(ROOT / f"examples/{name}.yaml"), *EXAMPLES[name].split(), *options)

    with at(folder):
        few = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val")]
        runs = ExampleRuns(*map(one, EXAMPLES), worse_regression=one("regression", BAD, *few))
        for run in (runs.regression, runs.worse_regression):
            evaluate([run])
    return runs
