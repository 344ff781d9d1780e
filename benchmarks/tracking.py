"""What it costs to log two metrics on every step: no logger, ours, and Lightning's MLFlowLogger, in turn.

python -m benchmarks.tracking --rounds 5
python -m benchmarks.tracking --rounds 5 --http

Prints one JSON object a round and a table of medians. A round trains the same CNN three times.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.reliability import Server
from project.tracking import store
from project.tracking.logger import MLflowLogger

STEPS = 1500


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
        return STEPS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


class Clock(Callback):
    """Times the training loop alone."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ms_a_step = (perf_counter() - self.start) / STEPS * 1000


def train(logger: Logger | None) -> float:
    """Milliseconds a step."""
    clock = Clock()
    Trainer(
        max_epochs=1, logger=logger or False, callbacks=[clock], log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    ).fit(SmallCNN(), DataLoader(OneBatch(), batch_size=None))  # fmt: skip
    return clock.ms_a_step


def one_round() -> dict[str, float]:
    """Train without a logger, with ours, and with Lightning's; the last figure is our drain in seconds."""
    without = train(None)
    ours = MLflowLogger("ours", "benchmark")
    ours.start(store.connect(), {})
    with_ours = train(ours)
    start = perf_counter()
    ours.end("FINISHED")
    drain_s = perf_counter() - start
    with_lightnings = train(MLFlowLogger("lightning", tracking_uri=store.tracking_uri()))
    return {"none_ms": without, "ours_ms": with_ours, "lightning_ms": with_lightnings, "drain_s": drain_s}


def main() -> None:
    """Run the rounds in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--http", action="store_true", help="an MLflow server on this machine instead of SQLite")
    args = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.chdir(tempfile.mkdtemp())
    with Server(Path.cwd()) if args.http else nullcontext() as server:
        os.environ["MLFLOW_TRACKING_URI"] = server.uri if server else f"sqlite:///{Path.cwd()}/mlruns/mlflow.db"
        train(None)  # warm up
        results = []
        for _ in range(args.rounds):
            results.append(one_round())
            print(json.dumps({key: round(value, 3) for key, value in results[-1].items()}), flush=True)
    table = Table(
        "logger", "ms a step", "times no logger: median", "least", "most",
        title=f"{STEPS} steps, 2 metrics each, {'http' if args.http else 'sqlite'}",
    )  # fmt: skip
    for name in ("none", "ours", "lightning"):
        ratios = [result[f"{name}_ms"] / result["none_ms"] for result in results]
        middle = statistics.median(result[f"{name}_ms"] for result in results)
        table.add_row(
            name, f"{middle:.2f}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
