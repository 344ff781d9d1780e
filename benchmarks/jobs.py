"""The commands that benchmarks/reliability.py breaks, of both sides; an MLflow server; and what is left of them."""

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
    """A column: the module that trains, its spelling of the options, and the command that comes next."""

    module: str
    small: str
    spelling: dict[str, str]
    next_command: str

    def options(self, **settings: object) -> list[str]:
        """A small CNN that logs every step, with these settings in the spelling of this side."""
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
    """A command in a process group of its own, whose terminal is the file `output.txt`."""

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
        """Wait until `last.ckpt` is there, and a second more."""
        while not checkpoints(self.folder):
            if self.process.poll() is not None:
                raise RuntimeError(f"ended before its first checkpoint: {(self.folder / 'output.txt').read_text()}")
            time.sleep(0.1)
        time.sleep(1)

    def left(self) -> list[int]:
        """What still runs of the process group."""
        running = [process.pid for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE]
        return [pid for pid in running if psutil.pid_exists(pid) and os.getpgid(pid) == self.process.pid]

    def seconds_to_end(self, within_s: float = 60) -> float:
        """Seconds from now until nothing runs; infinite when something still does after `within_s`."""
        start = time.monotonic()
        while self.process.poll() is None or self.left():
            if time.monotonic() - start > within_s:
                return math.inf
            time.sleep(0.05)
        return round(time.monotonic() - start, 1)

    @property
    def exit_code(self) -> int | str:
        """What a shell shows."""
        code = self.process.poll()
        return "none, it hangs" if code is None else code if code >= 0 else 128 - code


@contextmanager
def training(
    side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object
) -> Iterator[Job]:
    """Start a training; whatever happens, nothing of it runs afterwards."""
    job = Job(side.module, side.options(**settings), folder, uri, **environment or {})
    try:
        yield job
    finally:
        for pid in job.left():
            os.kill(pid, signal.SIGKILL)
        job.process.wait()


def train(side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object) -> Job:
    """Train to the end, whatever end that is."""
    with training(side, folder, uri, environment, **settings) as job:
        job.seconds_to_end(600)
    return job


def run_next(side: Side, folder: Path, uri: str) -> None:
    """The command that comes next, to its end: `project.sync` here, another training there."""
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
    """A SQLite store in a folder."""
    return f"sqlite:///{folder}/mlflow.db"


def runs(uri: str) -> list[Run]:
    """All runs of a store, the newest first."""
    client = MlflowClient(uri)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def losses(uri: str, run_id: str) -> list[Metric]:
    """The training loss of a run, a point a step."""
    return sorted(MlflowClient(uri).get_metric_history(run_id, "train/loss"), key=lambda point: point.step)


def load(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where it cannot be loaded."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state


def checkpoints(folder: Path) -> list[Path]:
    """All `last*.ckpt` in a folder; other than `rglob` this does not mind folders that come and go."""
    return [Path(path) for path in glob.glob(f"{folder}/**/last*.ckpt", recursive=True)]  # noqa: PTH207


def last_checkpoint(folder: Path, run_id: str = "") -> Path:
    """The newest `last*.ckpt` in a folder; of one run, where both sides have its id in the path."""
    return max((path for path in checkpoints(folder) if run_id in str(path)), key=lambda path: path.stat().st_mtime)
