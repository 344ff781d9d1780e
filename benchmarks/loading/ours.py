"""Ours: batches of a datamodule, made float32 as a model on a CPU would have them."""

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.loading.peers import BATCH, MEAN, MIN_AREA, SIZE, STD, WORKERS, Epoch
from project.data import ImageFolder
from project.engine.loading import Augmentation, ImageDataModule, Workers
from project.engine.runtime.allocator import keep_freed_memory

CROPS: dict[str, Any] = {
    "image_size": SIZE, "batch_size": BATCH, "workers": Workers(num=WORKERS),
    "augmentation": Augmentation(random_resized_crop=MIN_AREA, horizontal_flip=True),
}  # fmt: skip


def begin() -> None:
    """What `project.fit` does first in a process, and silence."""
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


class Normalise:
    """To float32 with mean 0 and standard deviation 1, a few images at a time, into the same memory."""

    def __init__(self) -> None:
        self.out = self.scale = self.shift = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8; the result, in the same memory format, is valid until the next call."""
        if self.out.shape[1:] != images.shape[1:] or len(self.out) < len(images):
            self.out = torch.empty_like(images, dtype=torch.float32)
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            # As much as lies together in memory, so that it fits into a core's cache and torch has its fast way.
            pattern = self.out[:1] if images.is_contiguous() else self.out[:1, :, :1]
            self.scale = torch.empty_like(pattern).copy_(1 / (255 * std))
            self.shift = torch.empty_like(pattern).copy_(-mean / std)
        some = max(1, 2**17 // images[0].numel())  # what a core's cache holds
        for part, target in zip(torch.split(images, some), torch.split(self.out, some), strict=False):
            floats = target[: len(part)].copy_(part)
            torch.addcmul(self.shift, floats, self.scale, out=floats)
        return self.out[: len(images)]


def ours(data: ImageDataModule) -> Epoch:
    """An epoch of the datamodule's train batches, normalised."""
    data.setup("fit")
    loader, normalise = data.train_dataloader(), Normalise()

    def epoch() -> int:
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
        return sum(len(normalise(images)) for images, _ in loader)

    return epoch


def folder(root: Path, cache: Literal["on", "off"]) -> Epoch:
    """Ours from the folder: its files, or their pixels in a cache."""
    return ours(ImageFolder(str(root), cache=cache, **CROPS))
