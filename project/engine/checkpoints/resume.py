"""Resuming from a checkpoint: the settings that must match it, and the settings that override it."""

from copy import deepcopy
from inspect import signature
from itertools import compress
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from project.engine.checkpoints.checkpoint import RunCheckpoint, settings_of
from project.engine.schedule import batches_per_step, move_to

_ADDED_BY_SCHEDULES = {"initial_lr", "swa_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}
"""Settings that torch's schedules add to an optimizer."""

_MOVED = ("lr", "momentum", "betas")
"""Settings of an optimizer that torch's schedules change."""

_AVERAGES = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}
"""Settings of torch's optimizers with the state that each of them needs."""


class CurrentSettings(Callback):
    """The current settings of a resumed run, at the position of its checkpoint.

    A checkpoint contains positions (momenta, counts, best scores) and settings (rates, weight decay, lengths,
    patience), and Lightning restores both. The settings may have changed, and the length of a schedule depends on the
    current data, devices and epochs.
    """

    def __init__(self) -> None:
        self._settings: list[tuple[Callback, dict[str, Any]]] = []
        self._schedules: list[dict[str, Any]] = []
        self._constructed: list[list[dict[str, Any]]] = []
        self._ends_epoch = self._is_complete = False
        self._new_rates: list[tuple[dict[str, Any], Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the settings of the callbacks, and remove the state of schedules, whose position is the step.

        The class of a schedule may have changed.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._settings = [(callback, _constructed_with(callback)) for callback in callbacks]
        self._schedules, checkpoint["lr_schedulers"] = checkpoint["lr_schedulers"], []
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        self._is_complete = epoch["completed"] == epoch["ready"]
        self._constructed = checkpoint["callbacks"].get(RunCheckpoint.__qualname__, {}).get("optimizers", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the settings; the loops now have the position of the training."""
        for callback, settings in self._settings:
            vars(callback).update(settings)
        self._ends_epoch = _finish_epoch(trainer)
        validation = trainer.fit_loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:
            # Lightning would skip the batches that were done, but their part of the metrics is not stored.
            validation.batch_progress.current.reset()
        epoch = trainer.fit_loop.epoch_progress.state_dict()["current"]
        # Schedules are stepped after the last batch of an epoch, before its validation.
        epochs = epoch["started"] if self._ends_epoch else epoch["processed"]
        # A module without an optimizer has one of Lightning's that does nothing and has no state.
        restored = [(one.state_dict().get("state", {}), one.param_groups) for one in trainer.optimizers]
        trainer.strategy.setup_optimizers(trainer)
        # Lightning's callback sets it at the start of an epoch, which is not repeated, and after optimizers are made.
        trainer.accumulate_grad_batches = batches_per_step(trainer, trainer.current_epoch)
        constructed, scheduled, followed = settings_of(trainer.optimizers), set[Optimizer](), set[Optimizer]()
        if (checkpoint := RunCheckpoint.of(trainer)) is not None:
            checkpoint.constructed = constructed  # A callback may have replaced the groups of the first optimizers.
        for config, saved in zip(trainer.lr_scheduler_configs, self._schedules, strict=False):
            if not isinstance(config.scheduler, LRScheduler) or isinstance(config.scheduler, ReduceLROnPlateau):
                # It follows a metric, or is not one of torch, so its state is its position.
                config.scheduler.load_state_dict(saved)
                followed.add(config.scheduler.optimizer)
                continue
            position = (trainer.global_step if config.interval == "step" else epochs) // config.frequency
            # The interval has no effect on a schedule that the module steps.
            if not pl_module.automatic_optimization or is_overridden("lr_scheduler_step", pl_module):
                position = saved["last_epoch"]
            move_to(config.scheduler, position)
            scheduled.add(config.scheduler.optimizer)
        # Checkpoints of an earlier version do not have the settings with which the optimizers were made.
        made = self._constructed or [[dict[str, Any]()] * len(groups) for _, groups in restored]
        for optimizer, (state, groups), now, then in zip(trainer.optimizers, restored, constructed, made, strict=True):
            for group in groups[len(optimizer.param_groups) :]:  # those that a callback has added, and unfrozen
                optimizer.add_param_group({**group})
                for parameter in group["params"]:
                    parameter.requires_grad = True
            have_new_rate = list[bool]()
            for group, before, new, old in zip(optimizer.param_groups, groups, now, then, strict=False):
                kept = _unchanged(before, new, old)
                if optimizer in followed and not old:
                    kept.add("lr")
                if optimizer in scheduled - followed:
                    kept.difference_update(_MOVED)
                group.update({name: before[name] for name in kept})
                have_new_rate.append(self._ends_epoch and optimizer in followed and "lr" not in kept)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            changed = compress(optimizer.param_groups, have_new_rate)
            self._new_rates += [(group, deepcopy(group["lr"])) for group in changed]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedules that follow a metric; Lightning does not at the end of the epoch that is resumed."""
        if trainer.fit_loop.restarting:
            self._step_followers(trainer, pl_module)
        self._ends_epoch = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step these schedules if the hooks of the epoch before were called, but its schedules not stepped."""
        if self._ends_epoch and not self._is_complete:
            self._step_followers(trainer, pl_module)
        self._ends_epoch = False

    def _step_followers(self, trainer: Trainer, module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs if module.automatic_optimization else ():
            metric = trainer.callback_metrics.get(config.monitor or "")
            if isinstance(config.scheduler, ReduceLROnPlateau) and metric is not None:
                config.scheduler.step(metric)
        for group, rate in self._new_rates:  # The metric of an epoch that was complete is that of the rate before.
            group["lr"] = rate


def _unchanged(before: dict[str, Any], new: dict[str, Any], old: dict[str, Any]) -> set[str]:
    """Return the settings of a group that keep their values: those whose options are the same as before.

    The module, a callback or the optimizer itself may have changed a value, such as a rate or a count.

    Args:
        before: The group at the checkpoint.
        new: Its settings as they are made now.
        old: Its settings as they were made before.
    """
    same = {name for name in before if name != "params" and new.get(name) == old.get(name)}
    has_lost_its_schedule = "initial_lr" in before.keys() - new.keys()
    return same.difference(_MOVED) if has_lost_its_schedule else same


def _constructed_with(callback: Callback) -> dict[str, Any]:
    names = signature(type(callback)).parameters
    return {name: value for name, value in vars(callback).items() if name in names and name != "dirpath"}


def _finish_epoch(trainer: Trainer) -> bool:
    """End an epoch that was complete, even if an epoch now has another number of batches.

    After the validation that ends an epoch, the epoch still counts as unfinished. Lightning would continue it until
    it has as many batches as an epoch has now.

    Returns:
        Whether training resumes at the end of an epoch.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress
    if batches.is_last_batch and isfinite(trainer.num_training_batches):
        batches.current.load_state_dict(dict.fromkeys(batches.current.state_dict(), trainer.num_training_batches))
    return bool(batches.is_last_batch)


def check_version(path: Path) -> None:
    """Refuse a checkpoint that does not contain the state of this version.

    Raises:
        ValueError: Another version of this code saved it.
    """
    if "validated_metrics" not in _read(path).get("callbacks", {}).get(RunCheckpoint.__qualname__, {}):
        raise ValueError(
            f"--resume: {path} was saved by another version of this package, which stored the best checkpoint in "
            "another way; resume the run with the code that saved it, or start again without --resume"
        )


def check_weights(path: Path, model: LightningModule) -> None:
    """Refuse a checkpoint that does not have the weights of a model.

    Raises:
        ValueError: A weight is missing, or has another shape.
    """
    saved = {name: tuple(weight.shape) for name, weight in _read(path)["state_dict"].items()}
    now = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if not model.strict_loading:  # Its checkpoints may lack weights, such as frozen ones.
        saved = {**now, **{name: shape for name, shape in saved.items() if name in now}}
    if other := sorted(saved.items() ^ now.items()):
        name = other[0][0]
        raise ValueError(
            f"--resume: {path} holds another net: {name} is {saved.get(name, 'missing')} there and "
            f"{now.get(name, 'missing')} here; keep --model and --model.* as they were, or start again without --resume"
        )


def check_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Refuse an optimizer with other settings than the one in a checkpoint, such as that of another class.

    Raises:
        ValueError: The checkpoint has the state of another optimizer.
    """
    (state,) = _read(path)["optimizer_states"]
    groups = [(set(group) - _ADDED_BY_SCHEDULES, len(group["params"])) for group in state["param_groups"]]
    made = [(set(group), len(group["params"])) for group in optimizer.param_groups]
    if groups[: len(made)] != made:  # A callback may have added groups.
        raise ValueError(
            f"--resume: {path} holds the state of an optimizer other than {type(optimizer).__name__}; keep "
            "--model.optimizer as it was, or start again without --resume"
        )
    for group in optimizer.param_groups:
        for setting, average in _AVERAGES.items():
            if group.get(setting) and any(average not in saved for saved in state["state"].values()):
                raise ValueError(
                    f"--resume: {path} lacks the averages that --model.optimizer.{setting} needs; keep it as it was, "
                    "or start again without --resume"
                )


def data_state(path: Path, datamodule: LightningDataModule) -> dict[str, Any]:
    """Return the state of a datamodule in a checkpoint; empty if it has none."""
    state: dict[str, Any] = _read(path).get(type(datamodule).__qualname__, {})
    return state


def check_not_complete(path: Path, finished: bool, max_epochs: int | None, max_steps: int) -> None:
    """Refuse to resume a run that is complete.

    Args:
        path: The checkpoint.
        finished: Whether the run is FINISHED; a run that was stopped after its last epoch lacks its test.
        max_epochs: Epochs to train in all; None and -1 mean no limit.
        max_steps: Steps to train in all; -1 means no limit.

    Raises:
        ValueError: The checkpoint is beyond the limit, or has reached it in a run that is finished.
    """
    state = _read(path)
    loop = state["loops"]["fit_loop"]
    epoch, last_batch = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["is_last_batch"]
    # The epoch counts as done after the validation that ends it.
    epochs = epoch["ready"] if last_batch else epoch["processed"]
    if max_epochs is not None and epochs <= max_epochs < epoch["ready"] and max_epochs >= 0:
        raise ValueError(
            f"--resume: the run is in epoch {epoch['ready']}, beyond --max_epochs {max_epochs}; give "
            f"--max_epochs {epoch['ready']} or more"
        )
    limits = {"max_epochs": (epochs, max_epochs), "trainer.max_steps": (state["global_step"], max_steps)}
    for option, (done, limit) in limits.items():
        if limit is not None and limit >= 0 and (done > limit or (finished and done == limit)):
            raise ValueError(
                f"--resume: the run has done {done} of --{option} {limit}; give more: --{option} {2 * done}"
            )


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state
