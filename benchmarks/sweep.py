"""Benchmark of the overhead of a sweep: the start of a trial, two jobs instead of one, and 500 empty trials.

python -m benchmarks.sweep
python -m benchmarks.sweep --only mnist --mnist DIR --peer CHECKOUT --rounds 5
python -m benchmarks.sweep --quick

Prints the lines of benchmarks/lines.py for these measurements:

- `start`: seconds from asking Optuna for a trial to its first training step
- `jobs`: seconds of 16 equal trials with one job and with two, for a small and for the default CNN
- `mnist`: seconds of a command with 4 trials, each one epoch of an MLP on MNIST (DIR contains `MNIST/raw`). If CHECKOUT
  is given, the same work with lightning-hydra-template: it needs MNIST in its `data`, its requirements in its `.venv`
- `trivial`: time of the processor for each trial, and memory of the sweep's process, over 500 trials that only report a
  number
- `locks`: number of SQLite's messages "database is locked" in 50 trials, 8 at a time
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from io import StringIO
from multiprocessing import set_forkserver_preload
from pathlib import Path
from time import perf_counter, process_time, time
from typing import Any

import optuna
import psutil
import yaml
from filelock import FileLock
from lightning import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from rich.console import Console

from benchmarks.lines import make_parser, print_line, report, rounds_of
from project.engine.search.device_pool import Devices
from project.engine.search.driver import Driver
from project.engine.search.space import SearchSpace
from project.engine.search.study import MLFLOW_RUN
from project.engine.search.trial_process import TrialLauncher
from project.engine.search.trial_queue import TrialQueue
from project.engine.search.trial_results import TrialResults
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.view import View

ROOT = Path(__file__).parent.parent
SMALL = ["--max_epochs", "1", "--model.net.widths", "[8,8,16,16]", "--model.net.hidden", "64"]
SPACE = {
    "metric": "val/accuracy",
    "direction": "maximize",
    "sampler": {"type": "RandomSampler", "seed": 0},
    "space": {"model.optimizer.lr": {"type": "float", "low": 1e-3, "high": 2e-3}},
}
PEER_SEARCH = """# @package _global_
defaults:
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: random
optimized_metric: val/acc_best
hydra:
  mode: MULTIRUN
  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    storage: null
    study_name: null
    n_jobs: 1
    direction: maximize
    n_trials: 4
    sampler: {seed: 0}
    params: {model.optimizer.lr: "interval(0.001, 0.002)"}
"""


class FirstStep(Callback):
    """Writes the time of a trial's first training step to a file named after the trial."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        context = os.environ.get("MLFLOW_RUN_CONTEXT")  # The check before the sweep trains a step, too.
        if context and not (file := Path(f"first-step-{json.loads(context)['trial']}")).exists():
            file.write_text(str(time()))


def sweep(folder: Path, *options: str) -> tuple[float, str]:
    """Run a sweep in a copy of the project; returns its seconds and its output."""
    if not (folder / "project").exists():
        for name in ("project", "configs", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "configs/search/bench.yaml").write_text(yaml.safe_dump(SPACE))
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "project.sweep", "--search", "bench", *options],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return perf_counter() - start, done.stdout + done.stderr


def start(folder: Path, trials: int) -> None:
    """Measure the seconds from asking for a trial to its first step, for each trial after the first."""
    options = [*SMALL, "--trainer.callbacks+=benchmarks.sweep.FirstStep"]
    sweep(folder, "--study", "start", "--n_trials", str(trials), *options)
    study = optuna.load_study(study_name="start", storage=f"sqlite:///{folder}/mlruns/optuna.db")
    waits = [
        float((folder / f"first-step-{trial.number}").read_text()) - trial.datetime_start.timestamp()
        for trial in study.trials[1:]
        if trial.datetime_start
    ]
    print_line("start: from asking for a trial to its first step", waits, "s")


def jobs(folder: Path) -> None:
    """Measure 16 trials, from the first start to the last end, with two jobs and with one.

    One job has all cores. A CNN that keeps all cores busy gains less from a second job than a small CNN, whose steps
    are mostly Python.
    """
    for model, options in {"small": SMALL, "default": []}.items():
        seconds = {}
        for n_jobs in (1, 2):
            name = f"{model}{n_jobs}"
            sweep(folder, "--study", name, "--n_trials", "16", "--n_jobs", str(n_jobs), *options, "--max_epochs", "3")
            trials = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/mlruns/optuna.db").trials
            begun = min(trial.datetime_start for trial in trials if trial.datetime_start)
            ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
            seconds[f"{n_jobs} at the same time"] = (ended - begun).total_seconds()
        report(f"jobs: 16 trials, {model} CNN", [seconds], "s", "1 at the same time")


def mnist(folder: Path, root: str, peer: str | None, rounds: int) -> None:
    """Measure a command with 4 trials of one epoch of MNIST; the peer runs its trials one after the other."""
    options = ["--data", "mnist", "--data.root", str(Path(root).resolve()), "--max_epochs", "1", "--n_jobs", "2"]
    options += ["--model.net", "benchmarks.mlp.MLP", "--model.optimizer", "Adam", "--n_trials"]
    sweep(folder, "--study", "mnist", *options, "1")  # This run reads the dataset and creates the store.
    results = []
    for number in range(rounds):
        seconds = {"ours": sweep(folder, "--study", f"mnist{number}", *options, "4")[0]}
        results.append(seconds | ({"peer": sweep_of_peer(Path(peer))} if peer else {}))
    if peer:
        report("mnist", results, "s", "peer")
    else:
        print_line("mnist: ours", [one["ours"] for one in results], "s")


def sweep_of_peer(checkout: Path) -> float:
    """Measure lightning-hydra-template's command: the same work with its own network, loader and Optuna sweeper."""
    search = checkout / "configs/hparams_search/bench.yaml"
    search.write_text(PEER_SEARCH)
    options = ["hparams_search=bench", "data.batch_size=128", "trainer.max_epochs=1", "trainer=cpu"]
    quiet = ["~callbacks.rich_progress_bar", "~callbacks.model_summary"]
    start = perf_counter()
    subprocess.run(
        [checkout / ".venv/bin/python", "src/train.py", "-m", *options, *quiet], cwd=checkout, check=True,
        env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}, capture_output=True,
    )  # fmt: skip
    return perf_counter() - start


def trivial(folder: Path, most: int) -> None:
    """Measure CPU time and memory of the sweep's process, for each fifth of the trials."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/trivial.db", direction="maximize", sampler=optuna.samplers.RandomSampler(0)
    )
    space = SearchSpace({"val/accuracy": "maximize"}, {"x": FloatDistribution(0, 1)}, None, None, Path("x.yaml"), "")
    client = MlflowClient(f"sqlite:///{folder}/trivial-mlflow.db")
    study.set_user_attr(MLFLOW_RUN, "none")
    runs = TrialRuns(client, "0", study, space.metrics)
    launcher = TrialLauncher("benchmarks.trivial", [], space.metrics, Devices(2, 1, 2, []), runs, folder, folder)
    set_forkserver_preload(["project.engine.search.job", "benchmarks.trivial"])
    part = most // 5
    for n_trials in range(part, most + 1, part):
        queue = TrialQueue(study, space, n_trials, FileLock(folder / "lock"))
        driver = Driver(study, queue, launcher, TrialResults(study, space.metrics, runs, max_retries=0))
        before = process_time()
        with View(study, space.metrics, n_trials, Console(file=StringIO(), force_terminal=True)) as view:
            driver.run(view.update)
        milliseconds = 1000 * (process_time() - before) / part
        print_line(f"trivial: processor for each trial, up to trial {n_trials}", [milliseconds], "ms")
        memory = psutil.Process().memory_info().rss / 2**20
        print_line(f"trivial: memory after trial {n_trials}", [memory], "MiB")


def locks(folder: Path) -> None:
    """Count "database is locked" in all output of 50 trials, 8 at a time."""
    few = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
    seconds, output = sweep(folder, "--study", "locks", "--n_trials", "50", "--n_jobs", "8", *SMALL, *few)
    texts = [output, *(log.read_text() for log in folder.glob("mlruns/sweeps/locks/*.log"))]
    print_line("locks: 50 trials, 8 at a time", [seconds], "s")
    print_line("locks: messages", [sum(text.lower().count("database is locked") for text in texts)], "messages")


def main(argv: Sequence[str]) -> None:
    """Run the chosen measurements in a new temporary folder."""
    parser = make_parser("benchmarks.sweep", __doc__, 1, "only `start` and `trivial`, with few trials")
    names = ["start", "jobs", "mnist", "trivial", "locks"]
    parser.add_argument("--only", nargs="+", choices=names, help="all but mnist, by default")
    parser.add_argument("--mnist", default="data", help="folder that contains MNIST/raw")
    parser.add_argument("--peer", help="checkout of lightning-hydra-template")
    args = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measurements: dict[str, Callable[[], None]] = {
            "start": lambda: start(folder, 3 if args.quick else 8),
            "jobs": lambda: jobs(folder),
            "mnist": lambda: mnist(folder, args.mnist, args.peer, rounds_of(args)),
            "trivial": lambda: trivial(folder, 20 if args.quick else 500),
            "locks": lambda: locks(folder),
        }
        usual = ["start", "trivial"] if args.quick else [name for name in names if name != "mnist"]
        for measurement in args.only or usual:
            measurements[measurement]()


if __name__ == "__main__":
    main(sys.argv[1:])
