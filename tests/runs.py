"""Runs that are trained once; tests get copies of them from the fixtures `runs` and `example_runs`."""

from pathlib import Path
from typing import NamedTuple

import tiny
from conftest import ROOT, Fit, at

from project.evaluate import main as evaluate
from project.fit import main as fit

BAD = "--model.optimizer.lr=1e-9"
FEW = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]


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
    worse_regression: str
    segmentation: str
    tabular: str


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
            other_test_data=one(data="Others"),
            not_evaluated=one(BAD),
        )
        for run in runs[:-1]:
            evaluate([run])
    return runs


def train_examples(folder: Path) -> ExampleRuns:
    """Train `ExampleRuns` on a few batches."""

    def one(name: str, *options: str) -> str:
        return fitted("--config", str(ROOT / f"examples/{name}.yaml"), "--max_epochs=1", *FEW, *options)

    with at(folder):
        runs = ExampleRuns(
            regression=one("regression"),
            worse_regression=one("regression", BAD),
            segmentation=one("segmentation"),
            tabular=one("tabular"),
        )
        for run in runs[:2]:
            evaluate([run])
    return runs
