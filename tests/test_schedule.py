"""The learning rate that is logged in every step, of any schedule, and of runs that are resumed with other settings."""

import csv
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader

from project.checkpoints import CurrentSettings
from project.loading import BatchLoader, EpochBatches, ImageArray
from project.schedule import WarmupCosine, make_schedule, total_steps

RATE, IMAGES = 0.1, 48
Make = Callable[[torch.optim.Optimizer, int], schedules.LRScheduler]

SCHEDULES: dict[str, tuple[Callable[..., schedules.LRScheduler], Make]] = {
    "WarmupCosine": (WarmupCosine, WarmupCosine),
    "CosineAnnealingLR": (schedules.CosineAnnealingLR, schedules.CosineAnnealingLR),
    "PolynomialLR": (partial(schedules.PolynomialLR, power=2.0),
                     lambda o, n: schedules.PolynomialLR(o, n, 2.0)),
    "LinearLR": (partial(schedules.LinearLR, start_factor=1.0, end_factor=0.1),
                 lambda o, n: schedules.LinearLR(o, 1.0, 0.1, n)),
    "OneCycleLR": (partial(schedules.OneCycleLR, max_lr=0.3), lambda o, n: schedules.OneCycleLR(o, 0.3, n)),
    "StepLR": (partial(schedules.StepLR, step_size=5, gamma=0.5), lambda o, n: schedules.StepLR(o, 5, 0.5)),
    "MultiStepLR": (partial(schedules.MultiStepLR, milestones=[4, 13]),
                    lambda o, n: schedules.MultiStepLR(o, [4, 13])),
    "ExponentialLR": (partial(schedules.ExponentialLR, gamma=0.9), lambda o, n: schedules.ExponentialLR(o, 0.9)),
    "ConstantLR": (partial(schedules.ConstantLR, factor=0.5, total_iters=9),
                   lambda o, n: schedules.ConstantLR(o, 0.5, 9)),
    "CosineAnnealingWarmRestarts": (partial(schedules.CosineAnnealingWarmRestarts, T_0=5, T_mult=2),
                                    lambda o, n: schedules.CosineAnnealingWarmRestarts(o, 5, 2)),
    "CyclicLR": (partial(schedules.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3),
                 lambda o, n: schedules.CyclicLR(o, 0.01, 0.1, 3)),
    "MultiplicativeLR": (partial(schedules.MultiplicativeLR, lr_lambda=lambda step: 0.8 if step % 2 else 1.0),
                         lambda o, n: schedules.MultiplicativeLR(o, lambda step: 0.8 if step % 2 else 1.0)),
    "LambdaLR": (partial(schedules.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
                 lambda o, n: schedules.LambdaLR(o, lambda step: 1 / (1 + step))),
}  # fmt: skip


class Net(LightningModule):
    """One linear layer with a schedule."""

    def __init__(self, make: Callable[..., schedules.LRScheduler], **settings: Any) -> None:
        super().__init__()
        self.make, self.settings, self.net = make, settings, nn.Linear(3, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0].float().mean((2, 3))), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.net.parameters(), **{"lr": RATE, "momentum": 0.9} | self.settings)
        schedule = make_schedule(self.make, optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}


class StopError(Exception):
    """Training stops."""


class Stop(Callback):
    """Saves a checkpoint after a step, and raises."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == self.step and not trainer.is_last_batch:
            trainer.save_checkpoint(self.path)
            raise StopError

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise StopError


def rates(
    net: Net, folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, batch_size: int = 8, ranks: int = 1,
    **options: Any,
) -> dict[int, float]:  # fmt: skip
    """Fit, and return the rate that is logged in each step."""
    logger = CSVLogger(folder, version=0, flush_logs_every_n_steps=1)
    trainer = Trainer(
        **{"max_epochs": 2} | options, logger=logger, accelerator="cpu", log_every_n_steps=1, num_sanity_val_steps=0,
        callbacks=[LearningRateMonitor("step"), *callbacks], enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    images = ImageArray(torch.zeros(IMAGES, 3, 4, 4, dtype=torch.uint8), torch.arange(IMAGES) % 2)
    loader = BatchLoader(images, EpochBatches(IMAGES, batch_size, ranks=ranks), lambda *batch: batch[:2])
    with suppress(StopError):
        trainer.fit(net, loader, DataLoader([(torch.zeros(3, 4, 4), 0)]), ckpt_path=ckpt_path)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}


def expected(make: Make, steps: int, rate: float = RATE) -> dict[int, float]:
    """The rates of a training of this length, from the schedule alone."""
    optimizer = SGD(nn.Linear(3, 2).parameters(), rate, momentum=0.9)
    schedule, values = make(optimizer, steps), {}
    for step in range(steps):
        values[step] = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


# Six steps per epoch, two epochs: stopped after its validation of step 12, or after step 8 within the second epoch.
CHANGES: dict[str, tuple[int, dict[str, Any], int]] = {
    "unchanged": (8, {}, 12),
    "more epochs": (12, {"max_epochs": 4}, 24),
    "more epochs within an epoch": (8, {"max_epochs": 3}, 18),
    "larger batches": (12, {"max_epochs": 4, "batch_size": 24}, 16),
    "batches that are a little larger": (12, {"max_epochs": 4, "batch_size": 12}, 20),
    "smaller batches": (6, {"max_epochs": 2, "batch_size": 4}, 18),
    "more ranks": (12, {"max_epochs": 4, "ranks": 2}, 18),
    "accumulation": (12, {"max_epochs": 4, "accumulate_grad_batches": 4}, 16),
    "accumulation within an epoch": (8, {"max_epochs": 3, "accumulate_grad_batches": 2}, 13),
    "fewer batches": (12, {"max_epochs": 4, "limit_train_batches": 2}, 16),
    "fewer batches within an epoch": (8, {"max_epochs": 3, "limit_train_batches": 4}, 14),
    "steps": (8, {"max_epochs": -1, "max_steps": 20}, 20),
    "steps and epochs": (8, {"max_epochs": 9, "max_steps": 20}, 20),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_has_todays_length_and_the_position_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    given, plain = SCHEDULES[name]
    for change, (stop, options, total) in CHANGES.items():
        folder = tmp_path / change
        before = rates(Net(given), folder / "before", Stop(stop, folder / "stopped.ckpt"))
        assert before == pytest.approx({step: rate for step, rate in expected(plain, 12).items() if step < stop})
        after = rates(Net(given), folder, CurrentSettings(), ckpt_path=folder / "stopped.ckpt", **options)
        whole = expected(plain, total)
        assert after == pytest.approx({step: rate for step, rate in whole.items() if step >= stop}), change
