"""A plain Lightning script that trains on the digits: Trainer, MLFlowLogger and ModelCheckpoint as in their docs.

python -m benchmarks.lightning_peer --max_epochs 10

benchmarks/reliability.py compares it with `python -m project.fit`. Both have the same CNN, images, batches and
checkpoints.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from sklearn.datasets import load_digits
from torch import Tensor
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from project.models import CNN

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """A CNN trained with cross-entropy on images (N, 1, 32, 32), float in [0, 1]."""

    def __init__(self, widths: Sequence[int], hidden: int, lr: float, power: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.power = lr, power
        self.net = CNN(num_classes=10, in_channels=1, image_size=32, widths=widths, hidden=hidden)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss)
        self.log("train/accuracy", (logits.argmax(1) == labels).float().mean(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.log("val/loss", F.cross_entropy(logits, labels), sync_dist=True)
        self.log("val/accuracy", (logits.argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        schedule = PolynomialLR(optimizer, int(self.trainer.estimated_stepping_batches), self.power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Make the loaders for training and validation, with batches of 64."""
    pixels, labels = load_digits(return_X_y=True)
    images = F.interpolate(torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, size=32, mode="bilinear")
    digits = TensorDataset(images[:1437], torch.from_numpy(labels[:1437]))
    train, val = random_split(digits, [1293, 144], torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True, drop_last=True), DataLoader(val, 64)


def main(argv: Sequence[str]) -> None:
    """Train; `--resume RUN_ID` continues that run from its last checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_epochs", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 64, 128, 128])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--power", type=float, default=1.0)
    parser.add_argument("--log_every_n_steps", type=int, default=10)
    parser.add_argument("--limit_train_batches", type=int)
    parser.add_argument("--default_root_dir", default=".")
    parser.add_argument("--resume", metavar="RUN_ID")
    args = parser.parse_args(argv)
    seed_everything(0)
    logger = MLFlowLogger(
        "digits", tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"), run_id=args.resume
    )
    if not args.resume:
        logger.log_hyperparams(vars(args))
    trainer = Trainer(
        accelerator="cpu", devices=args.devices, max_epochs=args.max_epochs, logger=logger,
        limit_train_batches=args.limit_train_batches,
        callbacks=[ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True, save_on_exception=True)],
        log_every_n_steps=args.log_every_n_steps, default_root_dir=args.default_root_dir,
    )  # fmt: skip
    model = Classifier(args.widths, args.hidden, args.lr, args.power)
    trainer.fit(model, *make_loaders(), ckpt_path="last" if args.resume else None)


if __name__ == "__main__":
    main(sys.argv[1:])
