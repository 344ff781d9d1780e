"""The images to predict, loaded as the validation of a run loads its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from project.engine.inference.trained_run import TrainedRun
from project.engine.loading import BatchLoader, Crop, EpochBatches, UncheckedFiles, Workers
from project.engine.loading.images import Batch
from project.engine.loading.square import to_grey

GIVEN = ("image_size", "in_channels")
"""Arguments of `PredictionImages` that the data of a run gave its model."""


class PredictionImages(LightningDataModule):
    """Files of any size, whose centre squares are resized; the targets are their indices.

    Args:
        image_size: Side of the images that the model receives, in pixels.
        in_channels: Number of their channels, 1 or 3; colours become grey for 1.
        batch_size: Images per step.
        workers: Threads that load images.
        bit_depth: Number of bits of the values in 16-bit files.
        tta: Whether a batch is followed by its mirror images.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        batch_size: int = 64,
        workers: Workers = Workers(),  # noqa: B008  # It is frozen.
        bit_depth: int = 16,
        tta: bool = False,
    ) -> None:
        super().__init__()
        self.image_size, self.in_channels, self.batch_size = image_size, in_channels, batch_size
        self.workers, self.bit_depth, self.tta = workers, bit_depth, tta
        self.files = UncheckedFiles([], bit_depth)

    def use(self, paths: Sequence[Path]) -> None:
        """Set the files."""
        self.files = UncheckedFiles(paths, self.bit_depth)

    def predict_dataloader(self) -> BatchLoader:
        device = self.trainer.strategy.root_device if self.trainer else None
        sampler = EpochBatches(len(self.files), self.batch_size)
        return BatchLoader(
            self.files, sampler, Crop(self.image_size), self._finish, workers=self.workers.per_device(1), device=device
        )

    def _finish(self, images: Tensor, indices: Tensor, keys: Tensor | None) -> Batch:
        if self.in_channels == 1:
            images = to_grey(images)
        return torch.cat([images, images.flip(-1)]) if self.tta else images, indices


def files_as_data(run: TrainedRun, **options: Any) -> dict[str, Any]:
    """Return settings by which files are the data of a run's model.

    Args:
        run: The run.
        options: Further arguments of `PredictionImages`.
    """
    given = {name: run.given_by_data[name] for name in GIVEN if name in run.given_by_data}
    kind = f"{PredictionImages.__module__}.{PredictionImages.__name__}"
    return {"class_path": kind, "init_args": {**given, **run.decoding, **options}}
