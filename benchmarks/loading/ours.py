"""This project's loading: batches of a datamodule, converted to float32 as a model on a CPU needs them."""

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


def prepare_process() -> None:
    """Keep freed memory as `project.fit` does, and silence Lightning."""
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


class Normalise:
    """Conversion to float32 with mean 0 and standard deviation 1, a few images at a time, into the same memory."""

    def __init__(self) -> None:
        self.out = self.scale = self.shift = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images (N, 3, H, W), uint8. The result has their memory format and is valid until the next call."""
        if self.out.shape[1:] != images.shape[1:] or len(self.out) < len(images):
            self.out = torch.empty_like(images, dtype=torch.float32)
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            # The pattern is one contiguous part, so that it fits into a core's cache and torch uses its fast kernel.
            pattern = self.out[:1] if images.is_contiguous() else self.out[:1, :, :1]
            self.scale = torch.empty_like(pattern).copy_(1 / (255 * std))
            self.shift = torch.empty_like(pattern).copy_(-mean / std)
        chunk = max(1, 2**17 // images[0].numel())  # A chunk fits into a core's cache.
        for part, target in zip(torch.split(images, chunk), torch.split(self.out, chunk), strict=False):
            floats = target[: len(part)].copy_(part)
            torch.addcmul(self.shift, floats, self.scale, out=floats)
        return self.out[: len(images)]


def datamodule_epoch(data: ImageDataModule) -> Epoch:
    """Return a function that loads and normalises an epoch of the datamodule's train batches."""
    data.setup("fit")
    loader, normalise = data.train_dataloader(), Normalise()

    def epoch() -> int:
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
        return sum(len(normalise(images)) for images, _ in loader)

    return epoch


def image_folder_epoch(root: Path, cache: Literal["on", "off"]) -> Epoch:
    """Return a function that loads an epoch from a folder's files, or from their pixels in a cache."""
    return datamodule_epoch(ImageFolder(str(root), cache=cache, **CROPS))
