"""The check that the loss is finite; it stops training before the last good checkpoint is overwritten."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class FiniteLoss(Callback):
    """A callback that stops training if the loss is NaN or infinite.

    The loss is checked every `log_every_n_steps` steps of the trainer and at the end of each epoch, because a check
    makes a GPU wait. A checkpoint between two checks is refused if its weights are NaN; see `check_numbers`.

    Raises:
        FloatingPointError: The loss is not finite; on every rank at the same step.
    """

    def __init__(self) -> None:
        self._zero: Tensor | None = None  # A sum over steps, which is NaN after a loss that is not finite.

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(outputs, Mapping) or "loss" not in outputs:
            return  # A step of manual optimization may return nothing.
        loss = outputs["loss"].detach()
        zero = loss - loss  # It is NaN if the loss is infinite or NaN, and takes one operation.
        self._zero = zero if self._zero is None else self._zero + zero
        every_n_steps = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if trainer.global_step % every_n_steps == 0 or trainer.is_last_batch:
            finite = (self._zero == 0).all().int()
            self._zero = None
            if trainer.world_size > 1:  # Lightning's `reduce` would also wait at a barrier.
                torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
            if not finite:
                rate = trainer.optimizers[0].param_groups[0]["lr"]
                raise FloatingPointError(
                    f"the loss is not finite at step {trainer.global_step}, learning rate {rate:.3g}; "
                    "try a smaller learning rate, a longer warmup or --trainer.gradient_clip_val 1"
                )


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError if a weight is NaN; infinite weights are allowed, as in a mask."""
    for name, weight in weights.items():
        if weight.isnan().any():
            raise FloatingPointError(f"{name} has weights that are NaN; the earlier checkpoint is kept")
