"""Going on from a checkpoint: what must fit it, and which settings win over it."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_KEPT = ("params", "lr")


class ConfiguredOptimizers(Callback):
    """Gives the optimizers of a resumed run the settings that it is resumed with.

    A checkpoint holds the state of an optimizer (momenta, step counts) together with its settings (rate,
    weight decay), and restoring brings both back; what stands in the settings now must win.
    """

    def __init__(self) -> None:
        self._settings: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the settings; the checkpoint is restored after this."""
        self._settings = [
            [{key: value for key, value in group.items() if key not in _KEPT} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them back, and bring the rate where the schedule has it now."""
        for optimizer, settings in zip(trainer.optimizers, self._settings, strict=True):
            for group, configured in zip(optimizer.param_groups, settings, strict=True):
                before = group.get("initial_lr")
                group.update(configured)
                if before:
                    group["lr"] *= group["initial_lr"] / before
        for config in trainer.lr_scheduler_configs:
            schedule, groups = config.scheduler, trainer.optimizers[0].param_groups
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            if isinstance(schedule, LambdaLR):
                # Its length may be new, and its rate follows from the step alone.
                for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                    group["lr"] = base * factor(schedule.last_epoch)


def check_fits(path: Path, net: nn.Module, optimizer: Optimizer) -> None:
    """Refuse settings that a checkpoint cannot go on with.

    Args:
        path: The checkpoint.
        net: The net that training goes on with, as `net` of the module that was saved.
        optimizer: The optimizer that training goes on with.

    Raises:
        ValueError: The net has other weights, or the optimizer another kind of state.
    """
    state = _read(path)
    saved = {
        name.removeprefix("net."): tuple(weight.shape)
        for name, weight in state["state_dict"].items()
        if name.startswith("net.")
    }
    now = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
    if other := sorted(saved.items() ^ now.items()):
        name = other[0][0]
        raise ValueError(
            f"--resume: {path} holds another net: {name} is {saved.get(name, 'not there')}, but {now.get(name, 'not')} "
            "in this one; keep --model and --model.net.* as they were, or start anew without --resume"
        )
    settings = set(state["optimizer_states"][0]["param_groups"][0]) - {"initial_lr"}
    if settings != set(optimizer.param_groups[0]) - {"initial_lr"}:
        raise ValueError(
            f"--resume: {path} holds the state of an optimizer other than {type(optimizer).__name__}; keep "
            "--model.optimizer as it was, or start anew without --resume"
        )


def data_state(path: Path, datamodule: LightningDataModule) -> dict[str, Any]:
    """What a checkpoint holds of a datamodule; empty where it holds nothing."""
    state: dict[str, Any] = _read(path).get(type(datamodule).__qualname__, {})
    return state


def check_not_complete(path: Path, finished: bool, max_epochs: int | None, max_steps: int) -> None:
    """Refuse to resume what has nothing left to do.

    Args:
        path: The checkpoint.
        finished: Whether the run came to its end; one that was stopped behind its last epoch has a test left.
        max_epochs: Epochs to train in all; None and -1 are no limit.
        max_steps: Steps to train in all; -1 is no limit.

    Raises:
        ValueError: The checkpoint is beyond the limit, or has reached it in a run that is finished.
    """
    state = _read(path)
    epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    limits = {"max_epochs": (epochs, max_epochs), "trainer.max_steps": (state["global_step"], max_steps)}
    for option, (done, limit) in limits.items():
        if limit is not None and limit >= 0 and (done > limit or (finished and done == limit)):
            raise ValueError(
                f"--resume: the run has done {done} already, of --{option} {limit}; give it more: --{option} {2 * done}"
            )


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state
