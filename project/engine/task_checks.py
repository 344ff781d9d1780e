"""The checks of a task before its training."""

import warnings

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from project.engine.schedule import check_schedule
from project.engine.task import Task


def check_optimizer(task: Task) -> None:
    """Raise ValueError if the optimizer or the schedule does not accept its settings."""
    try:
        unused = task.make_optimizer()
    except (TypeError, ValueError) as error:  # A value may be null.
        raise ValueError(f"model.optimizer: {error}") from error
    if isinstance(unused, torch.optim.LBFGS) and task.memory_format is torch.channels_last:
        raise ValueError("model.optimizer: got LBFGS, which needs contiguous weights; add --model.channels_last false")
    check_schedule(task.lr_schedule, unused)


def check_batch(task: Task, inputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError if the loss or a metric does not fit the net and the data; the task is not changed.

    Args:
        task: The task.
        inputs: Two or more samples, (N, ...).
        targets: Their targets, (N, ...).
    """
    was_training = task.training
    task.eval()
    option = "model.loss"
    try:
        with torch.no_grad(), isolate_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Two samples are few for some metrics.
            try:
                outputs = task(inputs)
            except RuntimeError:  # A net may need a GPU.
                return
            for wanted in (task.training_targets(targets), targets):
                if (loss := task.loss(outputs, wanted)).ndim:
                    raise ValueError(f"the loss has the shape {tuple(loss.shape)}; it must be a scalar")
            option, metrics = "model.metrics", task.val_metrics.clone()
            task.update_metrics(metrics, outputs, targets)
            for metric, value in metrics.compute().items():
                if not isinstance(value, Tensor) or value.numel() != 1:
                    raise ValueError(f"{metric} is not a single number")
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--{option}: does not fit the outputs {tuple(outputs.shape)} of the net and the targets "
            f"{tuple(targets.shape)} of the data: {reason}"
        ) from error
    finally:
        task.train(was_training)
