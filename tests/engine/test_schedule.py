"""The learning rate that is logged in every step, of any schedule, and of runs that are resumed with other settings."""

import csv
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import CSVLogger
from tiny import TINY
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, IterableDataset

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.checkpoints.durable import DurableCheckpointIO
from project.engine.checkpoints.resume import CurrentSettings
from project.engine.cli.command_line import CommandLine
from project.engine.loading import BatchLoader, Crop, EpochBatches, ImageArray
from project.engine.schedule import WarmupCosine, make_schedule, total_steps
from project.engine.training.callbacks import build_fit
from project.fit import main

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
    "StepLR": (partial(schedules.StepLR, step_size=5, gamma=0.5), lambda o, _: schedules.StepLR(o, 5, 0.5)),
    "MultiStepLR": (partial(schedules.MultiStepLR, milestones=[4, 13]),
                    lambda o, _: schedules.MultiStepLR(o, [4, 13])),
    "ExponentialLR": (partial(schedules.ExponentialLR, gamma=0.9), lambda o, _: schedules.ExponentialLR(o, 0.9)),
    "ConstantLR": (partial(schedules.ConstantLR, factor=0.5, total_iters=9),
                   lambda o, _: schedules.ConstantLR(o, 0.5, 9)),
    "CosineAnnealingWarmRestarts": (partial(schedules.CosineAnnealingWarmRestarts, T_0=5, T_mult=2),
                                    lambda o, _: schedules.CosineAnnealingWarmRestarts(o, 5, 2)),
    "CyclicLR": (partial(schedules.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3),
                 lambda o, _: schedules.CyclicLR(o, 0.01, 0.1, 3)),
    "MultiplicativeLR": (partial(schedules.MultiplicativeLR, lr_lambda=lambda step: 0.8 if step % 2 else 1.0),
                         lambda o, _: schedules.MultiplicativeLR(o, lambda step: 0.8 if step % 2 else 1.0)),
    "LambdaLR": (partial(schedules.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
                 lambda o, _: schedules.LambdaLR(o, lambda step: 1 / (1 + step))),
}  # fmt: skip


class Net(LightningModule):
    """One linear layer with a schedule."""

    def __init__(self, make: Callable[..., schedules.LRScheduler], **settings: Any) -> None:
        super().__init__()
        self.make, self.settings, self.net = make, settings, nn.Linear(3, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0].float().mean((2, 3))), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", 1.0)

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


class Sees(Callback):
    """Keeps what the optimizer has before the first step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not hasattr(self, "group"):
            self.group = dict(trainer.optimizers[0].param_groups[0])
            self.momenta = [state["momentum_buffer"].clone() for state in trainer.optimizers[0].state.values()]


def saved(path: Path) -> dict[str, Any]:
    (state,) = torch.load(path, weights_only=True)["optimizer_states"]
    return dict(state)


def rates(
    net: Net, folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, batch_size: int = 8, ranks: int = 1,
    **options: Any,
) -> dict[int, float]:  # fmt: skip
    """Fit, and return the rate that is logged in each step."""
    logger = CSVLogger(folder, version=0, flush_logs_every_n_steps=1)
    trainer = Trainer(
        **{"max_epochs": 2} | options, logger=logger, accelerator="cpu", log_every_n_steps=1, num_sanity_val_steps=0,
        callbacks=[LearningRateMonitor("step"), *callbacks], enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, RunCheckpoint) for callback in callbacks),
        enable_progress_bar=False, plugins=[DurableCheckpointIO()],
    )  # fmt: skip
    images = ImageArray(torch.zeros(IMAGES, 3, 4, 4, dtype=torch.uint8), torch.arange(IMAGES) % 2)
    batches = EpochBatches(IMAGES, batch_size, ranks=ranks)
    loader = BatchLoader(images, batches, Crop(4), lambda *batch: batch[:2])
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


# Each schedule and each change once; `make faults` runs all pairs.
PAIRS = [
    pytest.param(name, change, marks=() if row == column else pytest.mark.faults)
    for row, name in enumerate(SCHEDULES)
    for column, change in enumerate(CHANGES)
]


@pytest.mark.parametrize(("name", "change"), PAIRS)
def test_a_resumed_schedule_has_the_current_length_and_the_position_of_the_checkpoint(
    name: str, change: str, tmp_path: Path
) -> None:
    given, plain = SCHEDULES[name]
    stop, options, total = CHANGES[change]
    before = rates(Net(given), tmp_path / "before", Stop(stop, tmp_path / "stopped.ckpt"))
    assert before == pytest.approx({step: rate for step, rate in expected(plain, 12).items() if step < stop})
    after = rates(Net(given), tmp_path, CurrentSettings(), ckpt_path=tmp_path / "stopped.ckpt", **options)
    whole = expected(plain, total)
    assert after == pytest.approx({step: rate for step, rate in whole.items() if step >= stop})


@pytest.mark.parametrize("name", ["WarmupCosine", "CosineAnnealingLR"])
def test_a_resumed_cosine_falls_to_its_minimum_in_the_last_step(name: str, tmp_path: Path) -> None:
    given, _ = SCHEDULES[name]
    rates(Net(given), tmp_path / "before", Stop(12, tmp_path / "stopped.ckpt"))
    net = Net(given)
    after = rates(net, tmp_path, CurrentSettings(), ckpt_path=tmp_path / "stopped.ckpt", max_epochs=4, batch_size=24)
    values = list(after.values())
    assert RATE / 10 < values[0] < RATE / 2
    assert values == sorted(values, reverse=True)
    optimizer = net.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    assert values[-1] > optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_an_optimizer_has_its_current_settings_and_the_momenta_of_the_checkpoint(tmp_path: Path) -> None:
    given, plain = SCHEDULES["ExponentialLR"]
    rates(Net(given), tmp_path / "before", Stop(8, tmp_path / "stopped.ckpt"))
    momenta = [state["momentum_buffer"] for state in saved(tmp_path / "stopped.ckpt")["state"].values()]
    net, seen = Net(given, lr=0.5, weight_decay=0.3, nesterov=True), Sees()
    after = rates(net, tmp_path, CurrentSettings(), seen, ckpt_path=tmp_path / "stopped.ckpt")
    assert after == pytest.approx({step: rate for step, rate in expected(plain, 12, 0.5).items() if step >= 8})
    assert (seen.group["weight_decay"], seen.group["nesterov"], seen.group["initial_lr"]) == (0.3, True, 0.5)
    assert all(torch.equal(was, now) for was, now in zip(momenta, seen.momenta, strict=True))


def test_a_resumed_run_can_have_another_schedule(tmp_path: Path) -> None:
    for then, now in (("WarmupCosine", "StepLR"), ("StepLR", "LambdaLR"), ("LinearLR", "CyclicLR")):
        folder = tmp_path / now
        rates(Net(SCHEDULES[then][0]), folder / "before", Stop(8, folder / "stopped.ckpt"))
        after = rates(Net(SCHEDULES[now][0]), folder, CurrentSettings(), ckpt_path=folder / "stopped.ckpt")
        whole = expected(SCHEDULES[now][1], 12)
        assert after == pytest.approx({step: rate for step, rate in whole.items() if step >= 8})


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
def test_a_callback_has_its_current_settings_and_the_count_of_the_checkpoint(early: bool, tmp_path: Path) -> None:
    given, _ = SCHEDULES["ExponentialLR"]
    folder = str(tmp_path / "checkpoints")

    def checkpoints() -> RunCheckpoint:
        checkpoint = RunCheckpoint("val/loss")
        checkpoint.dirpath = folder
        return checkpoint

    rates(Net(given), tmp_path / "before", EarlyStopping("val/loss", patience=9), checkpoints())
    now = EarlyStopping("val/loss", patience=3)
    callbacks = [now, CurrentSettings()] if early else [CurrentSettings(), now]
    after = rates(Net(given), tmp_path, *callbacks, checkpoints(), ckpt_path=Path(folder, "last.ckpt"), max_epochs=20)
    # The second of the epochs is without an improvement, and two more follow.
    assert (now.patience, now.wait_count, max(after)) == (3, 3, 23)


CHOSEN = [
    (["--model.lr_schedule=StepLR", "--model.lr_schedule.step_size=10", "--model.lr_schedule.gamma=0.5"],
     lambda o: schedules.StepLR(o, 10, 0.5)),
    (["--model.lr_schedule=ExponentialLR", "--model.lr_schedule.gamma=0.9"], lambda o: schedules.ExponentialLR(o, 0.9)),
    (["--model.lr_schedule=torch.optim.lr_scheduler.CosineAnnealingLR"], lambda o: schedules.CosineAnnealingLR(o, 40)),
    (["--model.lr_schedule=CosineAnnealingLR", "--model.lr_schedule.T_max=7"],
     lambda o: schedules.CosineAnnealingLR(o, 7)),
    (["--model.lr_schedule=PolynomialLR", "--model.lr_schedule.power=2"], lambda o: schedules.PolynomialLR(o, 40, 2)),
    (["--model.lr_schedule=LinearLR"], lambda o: schedules.LinearLR(o, total_iters=40)),
    (["--model.lr_schedule=LinearLR", "--model.lr_schedule.total_iters=5"],
     lambda o: schedules.LinearLR(o, total_iters=5)),
    (["--model.lr_schedule=OneCycleLR", "--model.lr_schedule.max_lr=0.1"], lambda o: schedules.OneCycleLR(o, 0.1, 40)),
    (["--model.lr_schedule=MultiStepLR", "--model.lr_schedule.milestones=[3,9]"],
     lambda o: schedules.MultiStepLR(o, [3, 9])),
    (["--model.lr_schedule=test_schedule.halved"], lambda o: halved(o, 40)),
    (["--model.lr_schedule.warmup=0.5"], lambda o: WarmupCosine(o, 40, 0.5)),
]  # fmt: skip


def halved(optimizer: torch.optim.Optimizer, total_steps: int) -> schedules.LambdaLR:
    return schedules.LambdaLR(optimizer, lambda step: 0.5 if 2 * step > total_steps else 1.0)


# The others are read in the same way as one of these.
FAST_CHOSEN = ("StepLR", "torch.optim", "CosineAnnealingLR", "PolynomialLR", "OneCycleLR", "test_schedule", "warmup")


@pytest.mark.parametrize(("options", "same"), [
    pytest.param(options, same, id=" ".join(options),
                 marks=() if options[0].partition("=")[2].startswith(FAST_CHOSEN) else pytest.mark.faults)
    for options, same in CHOSEN
])  # fmt: skip
def test_a_schedule_by_class_path_has_its_own_arguments_and_the_length_by_name(
    options: list[str], same: Callable[[torch.optim.Optimizer], schedules.LRScheduler]
) -> None:
    cli = build_fit(CommandLine.parse([*options, "--model.optimizer.lr=0.1", "--trainer.logger=false"]))

    def values(make: Callable[[torch.optim.Optimizer], schedules.LRScheduler]) -> dict[int, float]:
        return expected(lambda optimizer, _: make(optimizer), 40)

    assert values(lambda optimizer: make_schedule(cli.model.lr_schedule, optimizer, 40)) == values(same)


def test_the_learning_rate_in_mlflow_is_that_of_the_chosen_schedule(workplace: Path) -> None:
    few = [f"--trainer.limit_{split}_batches=5" for split in ("train", "val", "test")]
    step = ["--model.lr_schedule=StepLR", "--model.lr_schedule.step_size=2", "--model.lr_schedule.gamma=0.5"]
    main([*TINY, "--data.batch_size=2", *few, *step, "--max_epochs=1", "--trainer.log_every_n_steps=1",
          "--model.optimizer.lr=0.008"])  # fmt: skip
    after = Fit(workplace, 0, "")
    history = after.client.get_metric_history(after.run.info.run_id, "lr")
    assert [metric.value for metric in history] == [0.008, 0.008, 0.004, 0.004, 0.002]


def test_a_group_that_is_added_later_follows_the_default_schedule() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], RATE)
    schedule = WarmupCosine(optimizer, 10, warmup=0.5)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": optimizer.param_groups[0]["lr"] / 10})
    for _ in range(10):
        optimizer.step()
        schedule.step()
        first, added = schedule.get_last_lr()
        assert added == pytest.approx(first / 10)


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from [(torch.zeros(3, 4, 4), 0)] * 9


@pytest.mark.parametrize(("limit", "steps"), [({"max_steps": 5}, 5), ({"max_epochs": 2}, None)])
def test_data_of_unknown_length_need_a_number_of_steps(
    limit: dict[str, int], steps: int | None, tmp_path: Path
) -> None:
    trainer = Trainer(
        **{"max_epochs": 10} | limit, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    net = Net(schedules.LinearLR)
    with nullcontext() if steps else pytest.raises(ValueError, match=r"--trainer\.max_steps: got -1"):
        trainer.fit(net, DataLoader(Stream(), 3))
        assert trainer.lr_scheduler_configs[0].scheduler.total_iters == trainer.global_step == steps  # type: ignore[attr-defined]
