"""Benchmark of logging two metrics per step: without a logger, with ours, and with Lightning's MLFlowLogger.

python -m benchmarks.tracking --rounds 12
python -m benchmarks.tracking --rounds 12 --http

In each round, new processes train the same CNN. They alternate: one runs for a third of a second while the others are
stopped, because the speed of a machine drifts. Two equal processes may still differ by some percent. A logger's
background work stops with its training, but clocks do not stop. Our logger therefore delivers records and measures the
system three times as often as it does alone. Servers are not stopped: stopping and waking them costs more than their
work.

Prints one JSON object per round and a table of medians.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
from ctypes import c_bool, c_double, c_int64
from pathlib import Path
from time import perf_counter, sleep

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.jobs import Server
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger

SLICE_S = 0.3
SLICES_PER_ROUND = 15
WARM_UP_STEPS = 500
NAMES = ("none", "ours", "lightning")


class SmallCNN(LightningModule):
    """A CNN that needs about two milliseconds per step on two cores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(392, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss)
        self.log("train/accuracy", (logits.argmax(1) == labels).float().mean())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class OneBatch(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that returns the same batch at every step, so that loading takes no time."""

    def __init__(self) -> None:
        self.batch = torch.randn(64, 1, 32, 32), torch.randint(0, 10, (64,))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


class Counter(Callback):
    """Counts the steps in shared memory, and stops training when the shared flag `stop` is set."""

    def __init__(self, steps: c_int64, stop: c_bool) -> None:
        self.steps, self.stop = steps, stop

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.steps.value += 1
        trainer.should_stop = self.stop.value


def train(name: str, uri: str, steps: c_int64, stop: c_bool, delivery_s: c_double) -> None:
    """Train until `stop` is set; `delivery_s` receives the seconds in which our logger delivers the rest."""
    for package in ("lightning.pytorch", "pytorch_lightning", "mlflow", "alembic"):
        logging.getLogger(package).setLevel(logging.ERROR)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.chdir(tempfile.mkdtemp())
    keep_freed_memory()
    ours = MLflowLogger("ours", "benchmark")
    if name == "ours":
        ours.start(store.connect(), {})
    Trainer(
        max_epochs=1, logger=ours if name == "ours" else name == "lightning" and MLFlowLogger(tracking_uri=uri),
        callbacks=[Counter(steps, stop)], log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    ).fit(SmallCNN(), DataLoader(OneBatch(), batch_size=None))  # fmt: skip
    start = perf_counter()
    ours.end("FINISHED")
    delivery_s.value = perf_counter() - start


class Candidate:
    """A training in its own process, which runs only during its slices of time."""

    def __init__(self, name: str, *, http: bool) -> None:
        folder = Path(tempfile.mkdtemp())
        self.server = Server(folder) if http and name != "none" else None
        if self.server:
            self.server.start()
        uri = self.server.uri if self.server else f"sqlite:///{folder}/mlflow.db"
        spawn = multiprocessing.get_context("spawn")
        # Raw values have no locks: a stopped process could hold one.
        self.steps, self.stop, self.delivery_s = (
            spawn.RawValue(c_int64), spawn.RawValue(c_bool), spawn.RawValue(c_double)
        )  # fmt: skip
        self.process = spawn.Process(target=train, args=(name, uri, self.steps, self.stop, self.delivery_s))
        self.process.start()
        while self.steps.value < WARM_UP_STEPS and self.process.is_alive():
            sleep(SLICE_S)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def run_slice(self) -> tuple[float, int]:
        """Train for one slice of time; returns its seconds and its number of steps."""
        before, start = self.steps.value, perf_counter()
        self._signal(signal.SIGCONT)
        sleep(SLICE_S)
        self._signal(signal.SIGSTOP)
        return perf_counter() - start, self.steps.value - before

    def finish(self) -> float:
        """End the training; returns the seconds in which our logger delivered the rest."""
        self._signal(signal.SIGCONT)
        self.stop.value = True
        self.process.join()
        return float(self.delivery_s.value)

    def kill(self) -> None:
        """Kill the training and its server."""
        self.process.kill()
        if self.server:
            self.server.kill()


def one_round(*, http: bool) -> dict[str, float]:
    """Measure the milliseconds per step of each training, and the seconds in which our logger delivers the rest."""
    candidates: dict[str, Candidate] = {}
    spent, steps = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)
    try:
        for name in NAMES:
            candidates[name] = Candidate(name, http=http)
        for _ in range(SLICES_PER_ROUND):
            for name in random.sample(
                NAMES, len(NAMES)
            ):  # The order is random, because the training after a server's has cold caches.
                seconds, done = candidates[name].run_slice()
                spent[name] += seconds
                steps[name] += done
        return {name: 1000 * spent[name] / steps[name] for name in NAMES} | {"delivery_s": candidates["ours"].finish()}
    finally:
        for candidate in candidates.values():
            candidate.kill()


def spread(results: list[dict[str, float]], name: str) -> list[str]:
    """Format the median, minimum and maximum of a logger's time relative to the time without a logger."""
    ratios = [result[name] / result["none"] for result in results]
    return [f"{value:.3f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]


def main() -> None:
    """Start the trainings, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--http", action="store_true", help="use an MLflow server on this machine instead of SQLite")
    args = parser.parse_args()
    results = []
    for _ in range(args.rounds):
        results.append(one_round(http=args.http))
        print(json.dumps({name: round(value, 3) for name, value in results[-1].items()}), flush=True)
    table = Table(
        "logger", "ms per step", "relative to no logger: median", "minimum", "maximum",
        title=f"two metrics per step, {'http' if args.http else 'sqlite'}",
    )  # fmt: skip
    for name in NAMES:
        middle = statistics.median(result[name] for result in results)
        table.add_row(name, f"{middle:.2f}", *spread(results, name))
    Console().print(table)


if __name__ == "__main__":
    main()
