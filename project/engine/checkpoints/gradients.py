"""Gradients of accumulated batches, in a checkpoint between two steps of the optimizer."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from project.engine import compat

ACCUMULATED = "accumulated_gradients"
"""The key of the gradients, by the name of their parameter."""


def save_gradients(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add the gradients to a checkpoint between accumulated batches, as their mean over all processes.

    Args:
        trainer: The trainer, which saves a checkpoint on all processes.
        module: The trained module.
        checkpoint: The checkpoint.
    """
    if not compat.is_step_done(trainer):
        checkpoint[ACCUMULATED] = {
            name: _mean(trainer, parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }


def restore_gradients(module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    """Set the gradients of a checkpoint; the parameters are already on their device, and sharded."""
    for name, parameter in module.named_parameters():
        if name in gradients:
            whole, weights = gradients[name].to(parameter.device), parameter.data
            if isinstance(weights, DTensor):
                whole = distribute_tensor(whole, weights.device_mesh, weights.placements)
            parameter.grad = whole


def _mean(trainer: Trainer, gradient: Tensor) -> Tensor:
    if isinstance(gradient, DTensor):
        return gradient.full_tensor()
    mean: Tensor = trainer.strategy.reduce(gradient.clone(), reduce_op="mean")
    return mean
