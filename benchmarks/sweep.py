"""What a sweep costs besides training: the start of a trial, two jobs against one, and 500 trials of nothing.

python -m benchmarks.sweep
python -m benchmarks.sweep --only mnist --mnist DIR --peer CHECKOUT --rounds 5

Prints one JSON object a line. `start` is from asking for a trial to its first training step; `jobs` the time of
16 equal trials with two jobs over that with one, for a small and the default CNN; `mnist` a whole command of 4 trials
of one epoch of an MLP on MNIST (DIR has `MNIST/raw`), beside that of lightning-hydra-template where there is a
CHECKOUT of it, with MNIST in its `data` and its requirements in its `.venv`; `trivial` the owner's CPU time a trial and
its memory over 500 trials that only report a number; `locks` counts complaints of SQLite with 8 jobs and 50 trials.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
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

from project.engine.search.device_pool import Devices
from project.engine.search.driver import Driver
from project.engine.search.space import SearchSpace
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
    """Writes when a trial's first training step starts, into a file named after the trial."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        context = os.environ.get("MLFLOW_RUN_CONTEXT")  # the sweep itself also tries a training step
        if context and not (file := Path(f"first-step-{json.loads(context)['trial']}")).exists():
            file.write_text(str(time()))


def sweep(folder: Path, *options: str) -> tuple[float, str]:
    """Seconds of a whole sweep in a copy of the project, and what it printed."""
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


def start(folder: Path) -> dict[str, Any]:
    """Seconds from asking to the first step, for each trial after the first."""
    sweep(folder, "--study", "start", "--n_trials", "8", *SMALL, "--trainer.callbacks+=benchmarks.sweep.FirstStep")
    study = optuna.load_study(study_name="start", storage=f"sqlite:///{folder}/mlruns/optuna.db")
    waits = [
        float((folder / f"first-step-{trial.number}").read_text()) - trial.datetime_start.timestamp()
        for trial in study.trials[1:]
        if trial.datetime_start
    ]
    return {"median_s": statistics.median(waits), "least_s": min(waits), "most_s": max(waits)}


def jobs(folder: Path) -> dict[str, Any]:
    """Time of 16 trials alone, first start to last end, with two jobs over that with one.

    One job has all cores: a CNN that fills them leaves less to gain than a small one, whose steps are mostly Python.
    """
    measured: dict[str, Any] = {}
    for model, options in {"small": SMALL, "default": []}.items():
        seconds = {}
        for n_jobs in (1, 2):
            name = f"{model}{n_jobs}"
            sweep(folder, "--study", name, "--n_trials", "16", "--n_jobs", str(n_jobs), *options, "--max_epochs", "3")
            trials = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/mlruns/optuna.db").trials
            begun = min(trial.datetime_start for trial in trials if trial.datetime_start)
            ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
            seconds[n_jobs] = (ended - begun).total_seconds()
        measured[model] = {"one_job_s": seconds[1], "two_jobs_s": seconds[2], "ratio": seconds[2] / seconds[1]}
    return measured


def mnist(folder: Path, root: str, peer: str | None, rounds: int) -> dict[str, Any]:
    """Seconds of a whole command: 4 trials of one epoch of MNIST; those of the peer run one after the other."""
    options = ["--data", "mnist", "--data.root", str(Path(root).resolve()), "--max_epochs", "1", "--n_jobs", "2"]
    options += ["--model.net", "benchmarks.mlp.MLP", "--model.optimizer", "Adam", "--n_trials"]
    sweep(folder, "--study", "mnist", *options, "1")  # the dataset is read once, and the store made
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(rounds):
        seconds["ours"].append(sweep(folder, "--study", f"mnist{number}", *options, "4")[0])
        if peer:
            seconds["peer"].append(sweep_of_peer(Path(peer)))
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=False)]
    return seconds | ({"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)} if peer else {})


def sweep_of_peer(checkout: Path) -> float:
    """Seconds of lightning-hydra-template's command: the same work, with its own network, loader and Optuna sweeper."""
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


def trivial(folder: Path) -> dict[str, Any]:
    """CPU time and memory of the owner at the first and the last hundred of 500 trials."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/trivial.db", direction="maximize", sampler=optuna.samplers.RandomSampler(0)
    )
    space = SearchSpace({"val/accuracy": "maximize"}, {"x": FloatDistribution(0, 1)}, None, None, "")
    client = MlflowClient(f"sqlite:///{folder}/trivial-mlflow.db")
    runs = TrialRuns(client, "0", study, space.metrics)
    launcher = TrialLauncher("benchmarks.trivial", [], space.metrics, Devices(2, 1, 2, []), runs, folder)
    set_forkserver_preload(["project.engine.search.job", "benchmarks.trivial"])
    readings = []
    for n_trials in range(100, 501, 100):
        queue = TrialQueue(study, space, n_trials, FileLock(folder / "lock"))
        driver = Driver(study, queue, launcher, TrialResults(study, space.metrics, runs, max_retries=0))
        before = process_time()
        with View(study, space.metrics, n_trials, Console(file=StringIO(), force_terminal=True)) as view:
            driver.run(view.update)
        memory = psutil.Process().memory_info().rss / 2**20
        readings.append({"trials": n_trials, "cpu_ms": (process_time() - before) * 10, "memory_mib": memory})
    return {"cpu_ms_a_trial_and_memory": [{k: round(v, 1) for k, v in reading.items()} for reading in readings]}


def locks(folder: Path) -> dict[str, Any]:
    """Complaints of SQLite in all output of 50 trials, 8 at a time."""
    few = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
    seconds, output = sweep(folder, "--study", "locks", "--n_trials", "50", "--n_jobs", "8", *SMALL, *few)
    texts = [output, *(log.read_text() for log in folder.glob("mlruns/sweeps/locks/*.log"))]
    return {"seconds": seconds, "complaints": sum(text.lower().count("database is locked") for text in texts)}


def command_line() -> None:
    """Run the chosen measurements in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["start", "jobs", "mnist", "trivial", "locks"]
    parser.add_argument("--only", nargs="+", choices=names, default=[name for name in names if name != "mnist"])
    parser.add_argument("--mnist", default="data", help="folder that has MNIST/raw")
    parser.add_argument("--peer", help="checkout of lightning-hydra-template")
    parser.add_argument("--rounds", type=int, default=1, help="how often `mnist` is measured")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measurements: dict[str, Callable[[], dict[str, Any]]] = {
            "start": lambda: start(folder),
            "jobs": lambda: jobs(folder),
            "mnist": lambda: mnist(folder, asked.mnist, asked.peer, asked.rounds),
            "trivial": lambda: trivial(folder),
            "locks": lambda: locks(folder),
        }
        for measurement in asked.only:
            print(json.dumps({"measured": measurement} | measurements[measurement]()), flush=True)


if __name__ == "__main__":
    command_line()
