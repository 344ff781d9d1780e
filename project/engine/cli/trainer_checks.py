"""The checks of the trainer's settings, which refuse what cannot work or has no effect, before there is a run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Checkpoint,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    OnExceptionCheckpoint,
    ProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import LBFGS, Optimizer

from project.engine.loading.batches import batches_taken
from project.engine.runtime.callbacks import callbacks_of

# Options with their allowed values, and the reason.
_FIXED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "barebones": ((False,), "it trains without checkpoints and metrics"),
    "default_root_dir": ((None,), "runs are stored in mlruns/ of the current folder"),
    "enable_autolog_hparams": ((True,), "a run's parameters are its settings; --trainer.logger false logs nothing"),
    "enable_checkpointing": ((None, True), "the test needs the best checkpoint, and --resume the last one"),
    "limit_predict_batches": ((None,), "project.fit does not predict"),
    "model_registry": ((None,), "MLflow is the registry: its UI has the button 'Register model' at each run"),
}
# Options with their smallest useful value, if Lightning does not check it.
_LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}
_REFUSED_CALLBACKS: Mapping[type[Callback], str] = {
    BasePredictionWriter: "project.fit does not predict",
    BatchSizeFinder: "it changes the batch size after the settings of the run are logged; give --data.batch_size",
    LearningRateFinder: (
        "it changes the learning rate after the settings of the run are logged; project.sweep searches "
        "model.optimizer.lr"
    ),
    OnExceptionCheckpoint: "the run already saves last.ckpt after an exception",
    SpikeDetection: "its state cannot be loaded in Lightning 2.6",
}
_NOT_IN_A_CHECKPOINT = {
    StochasticWeightAveraging: "averages in a checkpoint, unlike EMAWeightAveraging",
    ModelPruning: "masks in a checkpoint",
}
_BASE_CLASSES = (BaseFinetuning, Callback, Checkpoint, ProgressBar)


def check_settings(trainer: Namespace) -> None:
    """Refuse settings that are wrong for any data.

    Args:
        trainer: The settings of the trainer.

    Raises:
        ValueError: A setting is refused.
    """
    for option, (allowed, reason) in _FIXED.items():
        if trainer[option] not in allowed:
            raise ValueError(f"--trainer.{option}: got {_text(trainer[option])}, but {reason}; leave it out")
    if method := re.search(r"(?<![a-z])(?:spawn|fork|forkserver|notebook)(?![a-z])", str(trainer.strategy)):
        raise ValueError(
            f"--trainer.strategy: got {method[0]}, whose processes need copies of all objects; use --strategy ddp"
        )
    for option, least in _LEAST.items():
        if trainer[option] is not None and not trainer[option] >= least:  # NaN is neither.
            raise ValueError(f"--trainer.{option}: got {trainer[option]}; it must be {least} or more")
    for option in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[option] == 0:
            raise ValueError(f"--trainer.{option}: got 0, which trains nothing; it must be 1 or more")
    if trainer.val_check_interval == 0:
        raise ValueError("--trainer.val_check_interval: got 0; it must be 1 or more, or a share of an epoch")
    for option in ("epochs", "steps"):
        least, most = trainer[f"min_{option}"], trainer[f"max_{option}"]
        if least is not None and most not in (None, -1) and least > most:
            raise ValueError(f"--trainer.min_{option}: got {least}, but training ends at --trainer.max_{option} {most}")
    if isinstance(time := trainer.max_time, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time.strip()):
        raise ValueError(f"--trainer.max_time: got {time}; it must be DD:HH:MM:SS, such as 00:00:05:00 for 5 minutes")
    if trainer.gradient_clip_algorithm is not None and trainer.gradient_clip_val is None:
        raise ValueError("--trainer.gradient_clip_algorithm: has no effect without --trainer.gradient_clip_val")


def check_has_end(trainer: Namespace) -> None:
    """Raise ValueError if a schedule over the whole training has no end."""
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ValueError(
            "--max_epochs: got -1, which sets no end, but the learning-rate schedule needs one; give a number, or "
            "--trainer.max_steps"
        )


def check_not_reloaded(trainer: Namespace) -> None:
    """Raise ValueError if data whose loaders have a new order in each epoch would be reloaded."""
    if epochs := trainer.reload_dataloaders_every_n_epochs:
        raise ValueError(
            f"--trainer.reload_dataloaders_every_n_epochs: got {epochs}, but the splits are read once, and every epoch "
            "has a new order already; leave it out"
        )


def check_lengths(trainer: Trainer, batches: Mapping[str, int | None]) -> None:
    """Refuse settings that do not fit the number of batches in an epoch.

    Args:
        trainer: The trainer, before its start.
        batches: Batches of one rank by split, None if the data do not declare it. Missing splits are not checked.

    Raises:
        ValueError: A setting does not fit.
    """
    for split, number in batches.items():
        if number is None:
            _check_no_share(trainer, split)
            continue
        limit = getattr(trainer, f"limit_{split}_batches")
        if isinstance(limit, float) and limit > 0 and int(limit * number) == 0:
            overfit = getattr(trainer, "overfit_batches", 0)
            option = "overfit_batches" if overfit and split != "test" else f"limit_{split}_batches"
            raise ValueError(
                f"--trainer.{option}: got {limit:g}, which leaves none of the {number} batches of {split}; use a whole "
                f"number, or {1 / number:.3g} or more"
            )
    if (number := batches.get("train")) is None:
        return
    trained = batches_taken(trainer.limit_train_batches, number)
    interval = getattr(trainer, "val_check_interval", None)  # The attribute does not exist if the interval is a time.
    if isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and interval > trained:
        raise ValueError(
            f"--trainer.val_check_interval: got {interval}, but an epoch has {trained} batches; use that or less, or "
            "--trainer.check_val_every_n_epoch null, which counts across epochs"
        )
    steps = -(-trained // trainer.accumulate_grad_batches)
    if trainer.min_steps and trainer.max_epochs not in (None, -1) and trainer.min_steps > steps * trainer.max_epochs:
        raise ValueError(
            f"--trainer.min_steps: got {trainer.min_steps}, but --max_epochs {trainer.max_epochs} ends training after "
            f"{steps * trainer.max_epochs} steps; give more epochs"
        )


def _check_no_share(trainer: Trainer, split: str) -> None:
    """Raise ValueError if a setting is a share of the batches of a split whose number is unknown."""
    for option in (f"limit_{split}_batches", *(["val_check_interval"] if split == "train" else [])):
        if isinstance(given := getattr(trainer, option, None), float) and 0 < given < 1:
            raise ValueError(
                f"--trainer.{option}: got {given:g}, but the data do not declare the number of batches of {split}; "
                "give a number of batches"
            )


def check_validates(trainer: Namespace, monitor: str | None) -> None:
    """Raise ValueError if no validation can select the best checkpoint; a metric of training needs none."""
    if monitor and not monitor.startswith("train") and trainer.limit_val_batches == 0:
        raise ValueError(
            f"--trainer.limit_val_batches: got 0, but the best checkpoint is chosen by {monitor}; use 1 or more"
        )


def check_closures(trainer: Trainer, optimizers: Sequence[Optimizer]) -> None:
    """Refuse LBFGS in several processes: their losses differ, so one would wait for the others' gradients forever.

    Raises:
        ValueError: An optimizer is refused.
    """
    if trainer.world_size > 1 and any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise ValueError("--strategy: got several processes, but LBFGS needs one; use --strategy single")


def check_not_sharded(trainer: Trainer) -> None:
    """Refuse callbacks that copy the model if it is sharded.

    Raises:
        ValueError: A callback is refused.
    """
    copying = [*callbacks_of(trainer, WeightAveraging), *callbacks_of(trainer, StochasticWeightAveraging)]
    if copying and isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError(
            f"--trainer.callbacks: got {type(copying[0]).__name__}, which copies the model and cannot copy its shards; "
            "use --strategy ddp"
        )


def check_cuda_graphs(trainer: Trainer, mode: str) -> None:
    """Refuse to accumulate gradients with CUDA graphs, whose replays overwrite those of the earlier batches.

    Args:
        trainer: The trainer of the fit.
        mode: A mode of `torch.compile` that replays CUDA graphs.

    Raises:
        ValueError: Gradients would be lost.
    """
    if callbacks_of(trainer, GradientAccumulationScheduler) or trainer.accumulate_grad_batches > 1:
        raise ValueError(
            f"--model.compile: got {mode}, whose CUDA graphs overwrite gradients that are accumulated; use "
            "max-autotune-no-cudagraphs or true, or step after each batch"
        )


def reason_against_resume(callbacks: Sequence[Callback]) -> str:
    """Return why a run with these callbacks cannot be resumed; empty if it can be."""
    for callback in callbacks:
        for kind, missing in _NOT_IN_A_CHECKPOINT.items():
            if isinstance(callback, kind):
                return f"{type(callback).__name__} stores no {missing}"
    return ""


def check_resumable(callbacks: Sequence[Callback]) -> None:
    """Refuse to resume with callbacks whose state is in no checkpoint.

    Raises:
        ValueError: A callback is refused.
    """
    if reason := reason_against_resume(callbacks):
        raise ValueError(f"--resume: {reason}; start again without --resume")


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that have no effect in a fit, or change its settings.

    Raises:
        ValueError: A callback is refused.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if type(callback) in _BASE_CLASSES:
            raise ValueError(f"--trainer.callbacks: got {name}, a base class that does nothing; give a subclass")
        for refused, reason in _REFUSED_CALLBACKS.items():
            if isinstance(callback, refused):
                raise ValueError(f"--trainer.callbacks: got {name}, but {reason}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
