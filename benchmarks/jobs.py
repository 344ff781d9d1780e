"""Trainings of both sides of benchmarks/reliability.py, an MLflow server, and readers of what they leave."""

import glob
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, eq=False)
class Side:
    """One column of the comparison: its training module, its spelling of the options, and the command to run next."""

    module: str
    small: str
    spelling: dict[str, str]
    next_command: str

    def options(self, **settings: object) -> list[str]:
        """Spell the options of a small CNN that logs every step, with these settings."""
        words = [self.spelling.get(name, f"--{name} {{}}").format(value) for name, value in settings.items()]
        return " ".join([self.small, *words]).split()


SIDES = {
    "project": Side(
        "project.fit",
        "--model.net.widths [8,8,16,16] --model.net.hidden 64 --data.batch_size 64 --trainer.log_every_n_steps 1",
        {
            "hidden": "--model.net.hidden {}",
            "log_every_n_steps": "--trainer.log_every_n_steps {}",
            "limit_train_batches": "--trainer.limit_train_batches {}",
            "default_root_dir": "--trainer.default_root_dir {}",
            "power": "--model.lr_schedule torch.optim.lr_scheduler.PolynomialLR --model.lr_schedule.power {}",
            "devices": "--strategy ddp --devices {}",
        },
        "project.sync",
    ),
    "lightning": Side(
        "benchmarks.lightning_peer",
        "--widths 8 8 16 16 --hidden 64 --log_every_n_steps 1",
        {},
        "benchmarks.lightning_peer --max_epochs 1",
    ),
}


class Job:
    """A command in its own process group, whose output is appended to the file `output.txt`."""

    def __init__(self, module: str, options: list[str], folder: Path, uri: str, **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        self.folder, self.start = folder, time.monotonic()
        with (folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=folder, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=clean | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri} | environment,
            )  # fmt: skip

    def wait_for_checkpoint(self) -> None:
        """Wait until `last.ckpt` exists, and then for one second."""
        while not checkpoints(self.folder):
            if self.process.poll() is not None:
                raise RuntimeError(f"ended before its first checkpoint: {(self.folder / 'output.txt').read_text()}")
            time.sleep(0.1)
        time.sleep(1)

    def running_pids(self) -> list[int]:
        """List the processes of the group that are still running."""
        running = [process.pid for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE]
        return [pid for pid in running if psutil.pid_exists(pid) and os.getpgid(pid) == self.process.pid]

    def seconds_to_end(self, within_s: float = 60) -> float:
        """Measure the seconds until no process of the group is running; infinite after `within_s`."""
        start = time.monotonic()
        while self.process.poll() is None or self.running_pids():
            if time.monotonic() - start > within_s:
                return math.inf
            time.sleep(0.05)
        return round(time.monotonic() - start, 1)

    @property
    def exit_code(self) -> int | str:
        """The exit code as a shell shows it: 128 + N after signal N."""
        code = self.process.poll()
        return "none: still running" if code is None else code if code >= 0 else 128 - code


@contextmanager
def training(
    side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object
) -> Iterator[Job]:
    """Start a training, and kill its processes at the end of the context."""
    job = Job(side.module, side.options(**settings), folder, uri, **environment or {})
    try:
        yield job
    finally:
        for pid in job.running_pids():
            os.kill(pid, signal.SIGKILL)
        job.process.wait()


def train(side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object) -> Job:
    """Run a training until it ends, with or without an error."""
    with training(side, folder, uri, environment, **settings) as job:
        job.seconds_to_end(600)
    return job


def run_next(side: Side, folder: Path, uri: str) -> None:
    """Run the side's next command to its end: `project.sync` for the project, a training for Lightning."""
    module, *options = side.next_command.split()
    Job(module, options, folder, uri).seconds_to_end(600)


class Server:
    """A real `mlflow server` on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "server").mkdir()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = (
            f"server --host 127.0.0.1 --port {self.port} --workers 1 "
            f"--backend-store-uri sqlite:///{self.folder}/server.db --artifacts-destination {self.folder}/artifacts"
        )
        self.job = Job("mlflow", options.split(), self.folder / "server", "")
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)

    def kill(self) -> None:
        if self.job.process.poll() is None:
            os.killpg(self.job.process.pid, signal.SIGKILL)
            self.job.process.wait()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def store_in(folder: Path) -> str:
    """Return the URI of a SQLite store in a folder."""
    return f"sqlite:///{folder}/mlflow.db"


def runs(uri: str) -> list[Run]:
    """List all runs of a store, the newest first."""
    client = MlflowClient(uri)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def train_losses(uri: str, run_id: str) -> list[Metric]:
    """List the training loss of a run, one point per step."""
    return sorted(MlflowClient(uri).get_metric_history(run_id, "train/loss"), key=lambda point: point.step)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load a checkpoint; None if it cannot be loaded."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state


def checkpoints(folder: Path) -> list[Path]:
    """List all `last*.ckpt` in a folder. Unlike `rglob`, glob ignores folders that vanish meanwhile."""
    return [Path(path) for path in glob.glob(f"{folder}/**/last*.ckpt", recursive=True)]  # noqa: PTH207


def last_checkpoint(folder: Path, run_id: str = "") -> Path:
    """Return the newest `last*.ckpt` in a folder, or that of one run: both sides have the run id in the path."""
    return max((path for path in checkpoints(folder) if run_id in str(path)), key=lambda path: path.stat().st_mtime)
