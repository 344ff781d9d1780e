"""Resuming from a checkpoint: what must fit it, and which settings win over it."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from project.schedule import move_to


class CurrentSettings(Callback):
    """Gives a resumed run the optimizers and schedules of its settings, at the position of the checkpoint.

    A checkpoint holds the state of an optimizer (momenta, step counts) and of a schedule (the steps done) together
    with their settings (rates, weight decay, lengths), and Lightning restores both. Only the state is to be
    restored: the settings may have changed, and a length depends on the data, the devices and the epochs of today.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build both again, now that the loops know where training is, and give them the restored state."""
        _finish_epoch(trainer)
        states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        steps = [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs]
        trainer.strategy.setup_optimizers(trainer)
        for optimizer, state in zip(trainer.optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for config, step in zip(trainer.lr_scheduler_configs, steps, strict=True):
            move_to(config.scheduler, step)


def _finish_epoch(trainer: Trainer) -> None:
    """Make the end of an epoch its end also if an epoch has another number of batches now.

    After the validation that ends an epoch, the epoch still counts as unfinished, and Lightning would train on until
    it has as many batches as it has now.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress
    if batches.is_last_batch:
        batches.current.load_state_dict(dict.fromkeys(batches.current.state_dict(), trainer.num_training_batches))


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
    loop = state["loops"]["fit_loop"]
    epoch, last_batch = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["is_last_batch"]
    # The validation that ends an epoch comes before the epoch counts as done.
    epochs = epoch["ready"] if last_batch else epoch["processed"]
    limits = {"max_epochs": (epochs, max_epochs), "trainer.max_steps": (state["global_step"], max_steps)}
    for option, (done, limit) in limits.items():
        if limit is not None and limit >= 0 and (done > limit or (finished and done == limit)):
            raise ValueError(
                f"--resume: the run has done {done} already, of --{option} {limit}; give it more: --{option} {2 * done}"
            )


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state
