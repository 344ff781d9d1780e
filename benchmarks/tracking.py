"""Benchmark of logging two metrics per step: without a logger, with ours, and with Lightning's MLFlowLogger.

python -m benchmarks.tracking
python -m benchmarks.tracking --http
python -m benchmarks.tracking --quick

In each round, new processes train the same CNN. They alternate: one runs for a third of a second while the others are
stopped, because the speed of a machine drifts. Two equal processes may still differ by some percent. A logger's
background work stops with its training, but clocks do not stop. Our logger therefore delivers records and measures the
system three times as often as it does alone. Servers are not stopped: stopping and waking them costs more than their
work.

Prints the lines of benchmarks/lines.py and a table.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from ctypes import c_double
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.jobs import Server
from benchmarks.lines import make_parser, print_line, report, rounds_of
from benchmarks.slices import Candidate, Counter, Steps, ms_per_step
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger

SLICES_PER_ROUND, WARM_UP_STEPS = 15, 500
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


def train(steps: Steps, name: str, uri: str, delivery_s: c_double) -> None:
    """Train until `steps` is stopped; `delivery_s` receives the seconds in which our logger delivers the rest."""
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
        callbacks=[Counter(steps)], log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    ).fit(SmallCNN(), DataLoader(OneBatch(), batch_size=None))  # fmt: skip
    start = perf_counter()
    ours.end("FINISHED")
    delivery_s.value = perf_counter() - start


def one_round(*, http: bool, quick: bool) -> dict[str, float]:
    """Measure the milliseconds per step of each training, and the seconds in which our logger delivers the rest."""
    candidates: dict[str, Candidate] = {}
    servers: list[Server] = []
    delivery_s = multiprocessing.get_context("spawn").RawValue(c_double)
    try:
        for name in NAMES:
            folder = Path(tempfile.mkdtemp())
            uri = f"sqlite:///{folder}/mlflow.db"
            if http and name != "none":
                servers.append(Server(folder))
                servers[-1].start()
                uri = servers[-1].uri
            candidates[name] = Candidate(train, name, uri, delivery_s)
            candidates[name].warm_up(10 if quick else WARM_UP_STEPS)
        milliseconds = ms_per_step(candidates, 2 if quick else SLICES_PER_ROUND)
        candidates["ours"].finish()
        return milliseconds | {"delivery_s": float(delivery_s.value)}
    finally:
        for candidate in candidates.values():
            candidate.kill()
        for server in servers:
            server.kill()


def main(argv: Sequence[str]) -> None:
    """Run the rounds, and print the lines and the table."""
    parser = make_parser("benchmarks.tracking", __doc__, 12, "one short round")
    parser.add_argument("--http", action="store_true", help="use an MLflow server on this machine instead of SQLite")
    args = parser.parse_args(argv)
    results = [one_round(http=args.http, quick=args.quick) for _ in range(rounds_of(args))]
    print_line("delivery of the rest", [result.pop("delivery_s") for result in results], "s")
    report(f"two metrics per step, {'http' if args.http else 'sqlite'}", results, "ms", "none")


if __name__ == "__main__":
    main(sys.argv[1:])
