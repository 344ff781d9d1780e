"""The outputs for all samples of a split, from all ranks, in the order of the data."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from project.engine.task import Task

MOST_NUMBERS = 200_000_000
"""Largest number of outputs that are kept, 800 MB."""


class OutputCollector(Callback):
    """A callback that keeps the outputs and targets of `trainer.test` or `trainer.validate`.

    The steps of a `Task` return the outputs for a batch of inputs and targets; other modules are left out. Rank r of R
    gets the samples r, r + R, r + 2R and so on, as the loaders of this project and the samplers of torch and Lightning
    divide them.

    Attributes:
        absent: Why there are no outputs; empty if there are.
    """

    def __init__(self) -> None:
        self.absent = ""
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._numbers = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.absent:
            return
        if not isinstance(pl_module, Task):  # Its batches may have any form.
            self._give_up("it is not a Task")
            return
        if dataloader_idx or not isinstance(outputs, Tensor) or not outputs.ndim:
            self._give_up("its step returns no outputs of one dataloader")
            return
        self._numbers += outputs.numel() * trainer.world_size
        if self._numbers > MOST_NUMBERS:
            self._give_up(f"its outputs are more than {MOST_NUMBERS:,} numbers")
            return
        self._kept.append((outputs.detach().float().cpu(), batch[1].cpu()))

    on_validation_batch_end = on_test_batch_end

    def gather(self, trainer: Trainer, samples: int | None) -> tuple[Tensor, Tensor] | None:
        """Return the outputs (N, ...) and the targets (N, ...) of all ranks; None if a rank has none.

        Args:
            trainer: The trainer; all ranks must call this.
            samples: Number of samples in the split, without those that a sampler repeats; None if unknown.
        """
        mine = (
            None
            if self.absent or not self._kept
            else tuple(torch.cat(parts) for parts in zip(*self._kept, strict=True))
        )
        shares: list[Any] = [mine]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, mine)
        if any(share is None for share in shares):
            self.absent = self.absent or "another rank has no outputs"
            return None
        places = torch.cat([rank + len(shares) * torch.arange(len(share[1])) for rank, share in enumerate(shares)])
        order = places.argsort()[: samples or None]
        outputs, targets = (torch.cat(parts)[order] for parts in zip(*shares, strict=True))
        return outputs, targets

    def _give_up(self, reason: str) -> None:
        self.absent, self._kept = reason, []
