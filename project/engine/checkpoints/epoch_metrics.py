"""The end of an epoch that is resumed: the states of its metrics in a checkpoint, and hooks that can be repeated."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from project.engine.compat import restore_state

_KEY = "epoch_metrics"
Hook = TypeVar("Hook", bound=Callable[..., None])

State = dict[str, Tensor | list[Tensor]]
"""The parts of a metric's state: sums, and lists of the values of batches."""


def repeatable(hook: Hook) -> Hook:
    """Mark an `on_train_epoch_end` that a resumed run may call again, without the batches of the epoch."""
    vars(hook)["repeatable"] = True
    return hook


def awaits_epoch_end(trainer: Trainer) -> bool:
    """Return whether a run that resumes here would call an `on_train_epoch_end` that needs the epoch's batches.

    A hook that is marked as repeatable does not need them, and Lightning's own does nothing.
    """
    hook = trainer.lightning_module.on_train_epoch_end
    is_own = getattr(hook, "__func__", None) is LightningModule.on_train_epoch_end
    return trainer.is_last_batch and not (is_own or getattr(hook, "repeatable", False))


def save_states(trainer: Trainer, metrics: Mapping[str, Metric], checkpoint: dict[str, Any]) -> None:
    """Add the states of all processes to a checkpoint within an epoch.

    Args:
        trainer: The trainer, which saves a checkpoint on all processes.
        metrics: Metrics that are updated in each training step, and whose states are sums or lists.
        checkpoint: The checkpoint.
    """
    loop = trainer.fit_loop
    epoch, validation = loop.epoch_progress.state_dict()["current"], loop.epoch_loop.val_loop.batch_progress.current
    if epoch["processed"] < epoch["started"]:
        validated = trainer.validating and validation.completed == validation.ready
        checkpoint[_KEY] = {
            "sums": {name: _of_all_processes(metric) for name, metric in metrics.items()},
            # The epoch ends immediately after this.
            "logged": validated and loop.epoch_loop.batch_progress.is_last_batch,
        }


def restore_states(trainer: Trainer, metrics: Mapping[str, Metric], checkpoint: Mapping[str, Any]) -> tuple[bool, bool]:
    """Continue from the states of a checkpoint, which are those of all processes.

    Returns:
        Whether the checkpoint has states, and whether they have been logged.
    """
    saved = checkpoint.get(_KEY, {"sums": {}, "logged": False})
    of_metrics: dict[str, State] = saved["sums"]  # An earlier name, which older checkpoints have.
    for metric in metrics.values():
        metric.reset()
    for name, states in of_metrics.items():
        restore_state(metrics[name], _share(trainer, metrics[name], states))
    return bool(of_metrics), saved["logged"]


def _of_all_processes(metric: Metric) -> State:
    with metric.sync_context():
        return {
            name: [one.detach().clone() for one in value] if isinstance(value, list) else value.detach().clone()
            for name, value in metric.metric_state.items()
        }


def _share(trainer: Trainer, metric: Metric, states: State) -> State:
    """Return the part of this process: sums in the first one, and lists divided among all.

    torchmetrics cannot gather the lists of all processes if one of them is empty.
    """
    part, found = slice(trainer.global_rank, None, trainer.world_size), State()
    for name, value in states.items():
        if isinstance(value, list):
            found[name] = [one.to(metric.device) for one in value[part]]
        elif isinstance(metric.metric_state[name], list):  # The lists of several processes were joined.
            found[name] = [value[part].to(metric.device)]
        elif trainer.is_global_zero:
            found[name] = value.to(metric.device)
    return found
