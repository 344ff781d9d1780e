"""Learning-rate schedules: the default one, and the length and the position of any schedule.

A schedule is a function of its settings and of the number of steps done. A checkpoint contributes only this number: a
resumed run builds its schedule from its own settings, and moves it to the step of the checkpoint.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from inspect import signature

from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from typing_extensions import override

from project.engine.compat import batches_done
from project.engine.runtime.callbacks import callbacks_of

ScheduleCallable = Callable[..., LRScheduler]
"""Makes a schedule; called with an optimizer as its first argument."""

LENGTHS = ("total_steps", "T_max", "total_iters")
"""Parameters of schedules that are a number of steps. Their default is the length of the training."""

REFUSED = {
    "LRScheduler": "it is the base class of all schedules",
    "ReduceLROnPlateau": "it follows a metric, but schedules follow the step here",
    "SequentialLR": "its arguments are schedules; write a class of your own that combines them",
    "ChainedScheduler": "its arguments are schedules; write a class of your own that combines them",
}
"""Schedules that cannot be chosen, with the reason."""

NOT_OPTIONS = ("epochs", "steps_per_epoch", "last_epoch")
"""Parameters of schedules that are not options: other forms of the length, and the position."""


class WarmupCosine(LambdaLR):
    """A schedule that rises linearly to the optimizer's rate, and then falls to zero on half a cosine.

    Source: Loshchilov and Hutter, SGDR, arXiv:1608.03983; Goyal et al., arXiv:1706.02677, for the warmup.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Length of the schedule in steps.
        warmup: Share of the steps spent rising, in [0, 1).

    Raises:
        ValueError: `warmup` is out of its range.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup: got {warmup}; it must be in [0, 1)")
        rising = max(1, round(warmup * total_steps))
        falling = max(1, total_steps - rising)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / falling)))

        super().__init__(optimizer, factor)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group; one that was added later begins with its own, and then follows the others."""
        before, now = (self.lr_lambdas[0](step) for step in (self.last_epoch - 1, self.last_epoch))
        groups = self.optimizer.param_groups
        return [now * group.setdefault("initial_lr", group["lr"] / (before or 1)) for group in groups]


def make_schedule(make: ScheduleCallable, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Make a schedule that is stepped after each step of the optimizer.

    Args:
        make: A class of schedules, or a function that returns one, perhaps with settings bound by `partial`.
        optimizer: The optimizer whose learning rates the schedule changes.
        steps: Length of the training. It is the value of each parameter of `LENGTHS` that is not set.

    Raises:
        ValueError: The settings are out of their range.
    """
    settings = make.keywords if isinstance(make, partial) else {}
    if (given := settings.get("total_steps")) is not None:
        raise ValueError(f"total_steps: got {given}; it is always the length of the training, see --max_epochs")
    names = [name for name in LENGTHS if name in {*signature(make).parameters, *settings}]
    return make(optimizer, **{name: steps for name in names if settings.get(name) is None})


def check_schedule(make: ScheduleCallable, optimizer: Optimizer) -> None:
    """Try the first steps of a schedule.

    Args:
        make: See `make_schedule`.
        optimizer: An optimizer that is not used for training.

    Raises:
        ValueError: Its settings are impossible.
    """
    try:
        move_to(make_schedule(make, optimizer, 1000), 2)
    except (ArithmeticError, AssertionError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        if ": got" in str(error):
            raise ValueError(f"model.lr_schedule.{error}") from error
        got = f"got {make.keywords}: " if isinstance(make, partial) else ""
        raise ValueError(f"model.lr_schedule: {got}{str(error) or type(error).__name__}") from error


def move_to(schedule: LRScheduler, step: int) -> None:
    """Move a new schedule to its position after `step` steps.

    Many schedules define a rate only by the previous one. A million steps take about ten seconds.
    """
    with warnings.catch_warnings():
        # The optimizer has done its steps in an earlier process.
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`")
        for _ in range(step):
            schedule.step()


def total_steps(trainer: Trainer) -> int:
    """Return the steps of a whole training: those that are done, and those that remain with its settings.

    Raises:
        ValueError: The number of batches is unknown, and `max_steps` is not set.
    """
    planned = int(trainer.estimated_stepping_batches)  # It loads the data if they are not loaded.
    if planned < 0:
        raise ValueError(
            "--trainer.max_steps: got -1, but the data do not declare the number of their batches, and the "
            "learning-rate schedule needs the length of the training; give a number"
        )
    if trainer.max_epochs is None or trainer.max_epochs < 0 or math.isinf(trainer.num_training_batches):
        return planned
    loop = trainer.fit_loop
    epochs, batches = loop.epoch_progress.state_dict()["current"], loop.epoch_loop.batch_progress
    accumulated = [batches_per_step(trainer, epoch) for epoch in range(epochs["processed"], trainer.max_epochs)]
    steps = [math.ceil(trainer.num_training_batches / number) for number in accumulated]
    total = int(trainer.global_step + sum(steps))
    if steps and epochs["started"] > epochs["processed"]:  # this epoch is not finished
        total -= steps[0] if batches.is_last_batch else min(steps[0], batches_done(trainer) // accumulated[0])
    return total if trainer.max_steps == -1 else min(total, trainer.max_steps)


def batches_per_step(trainer: Trainer, epoch: int) -> int:
    """Return how many batches of an epoch, counted from 0, are accumulated for a step of the optimizer."""
    for scheduler in callbacks_of(trainer, GradientAccumulationScheduler):
        return scheduler.get_accumulate_grad_batches(epoch)
    return trainer.accumulate_grad_batches
