"""What it costs to log two metrics on every step: no logger, ours, and Lightning's MLFlowLogger, side by side.

python -m benchmarks.tracking --rounds 12
python -m benchmarks.tracking --rounds 12 --http

In each round new processes train the same CNN, and one at a time goes on for a third of a second while the
others are stopped, so that all of them see the same machine, whose speed drifts; two processes that do the same may
still differ by some percent. What a logger does in the background stops with its training. Clocks do not: in its
share of the time ours delivers, and measures the system, three times as often as it does alone. Servers go on as well,
idle but for requests: to be stopped and woken costs them more than all their work.

Prints one JSON object a round and a table of medians.
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
SLICES_A_ROUND = 15
WARM_UP_STEPS = 500
NAMES = ("none", "ours", "lightning")


class SmallCNN(LightningModule):
    """About two milliseconds a step on two cores."""

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
    """The same batch at every step, so that loading costs nothing."""

    def __init__(self) -> None:
        self.batch = torch.randn(64, 1, 32, 32), torch.randint(0, 10, (64,))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


class Counter(Callback):
    """Tells how many steps are done, and ends training when it is told to."""

    def __init__(self, steps: c_int64, enough: c_bool) -> None:
        self.steps, self.enough = steps, enough

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.steps.value += 1
        trainer.should_stop = self.enough.value


def train(name: str, uri: str, steps: c_int64, enough: c_bool, drain_s: c_double) -> None:
    """Train until there is enough."""
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
        callbacks=[Counter(steps, enough)], log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    ).fit(SmallCNN(), DataLoader(OneBatch(), batch_size=None))  # fmt: skip
    start = perf_counter()
    ours.end("FINISHED")
    drain_s.value = perf_counter() - start


class Contestant:
    """A training in a process of its own that goes on only when it is let."""

    def __init__(self, name: str, *, http: bool) -> None:
        folder = Path(tempfile.mkdtemp())
        self.server = Server(folder) if http and name != "none" else None
        if self.server:
            self.server.start()
        uri = self.server.uri if self.server else f"sqlite:///{folder}/mlflow.db"
        spawn = multiprocessing.get_context("spawn")
        # Without locks, which a stopped process might hold.
        self.steps, self.enough, self.drain_s = (
            spawn.RawValue(c_int64), spawn.RawValue(c_bool), spawn.RawValue(c_double)
        )  # fmt: skip
        self.process = spawn.Process(target=train, args=(name, uri, self.steps, self.enough, self.drain_s))
        self.process.start()
        while self.steps.value < WARM_UP_STEPS and self.process.is_alive():
            sleep(SLICE_S)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def go_on(self) -> tuple[float, int]:
        """Train for a slice of time; its seconds and the steps that were done in it."""
        before, start = self.steps.value, perf_counter()
        self._signal(signal.SIGCONT)
        sleep(SLICE_S)
        self._signal(signal.SIGSTOP)
        return perf_counter() - start, self.steps.value - before

    def finish(self) -> float:
        """End the training; seconds that it took ours to deliver the rest."""
        self._signal(signal.SIGCONT)
        self.enough.value = True
        self.process.join()
        return float(self.drain_s.value)

    def kill(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        if self.server:
            self.server.kill()


def one_round(*, http: bool) -> dict[str, float]:
    """Milliseconds a step of each, and seconds that it took ours to deliver the rest at its end."""
    contestants: dict[str, Contestant] = {}
    spent, steps = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)
    try:
        for name in NAMES:
            contestants[name] = Contestant(name, http=http)
        for _ in range(SLICES_A_ROUND):
            for name in random.sample(NAMES, len(NAMES)):  # whoever follows a server finds cold caches
                seconds, done = contestants[name].go_on()
                spent[name] += seconds
                steps[name] += done
        return {name: 1000 * spent[name] / steps[name] for name in NAMES} | {"drain_s": contestants["ours"].finish()}
    finally:
        for contestant in contestants.values():
            contestant.kill()


def spread(results: list[dict[str, float]], name: str) -> list[str]:
    """Median, least and most of its time as a multiple of that without a logger."""
    ratios = [result[name] / result["none"] for result in results]
    return [f"{value:.3f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]


def main() -> None:
    """Start the trainings, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--http", action="store_true", help="an MLflow server on this machine instead of SQLite")
    args = parser.parse_args()
    results = []
    for _ in range(args.rounds):
        results.append(one_round(http=args.http))
        print(json.dumps({name: round(value, 3) for name, value in results[-1].items()}), flush=True)
    table = Table(
        "logger", "ms a step", "times no logger: median", "least", "most",
        title=f"two metrics on every step, {'http' if args.http else 'sqlite'}",
    )  # fmt: skip
    for name in NAMES:
        middle = statistics.median(result[name] for result in results)
        table.add_row(name, f"{middle:.2f}", *spread(results, name))
    Console().print(table)


if __name__ == "__main__":
    main()
