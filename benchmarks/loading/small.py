"""Images of CIFAR-10's size, in a datamodule and in a torch Dataset, and a CNN that trains on them."""

from collections.abc import Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.loading.peers import BATCH, MEAN, STD, WORKERS
from project.data import LabelledImages
from project.engine.loading import Augmentation, ImageArray, Split
from project.engine.tracking.throughput import Throughput
from project.models import CNN
from project.tasks.classification import ImageClassifier

SMALL_AUGMENTATION = Augmentation(crop_padding=4, horizontal_flip=True)


class SmallImages(LabelledImages):
    """Random pixels of CIFAR-10's size."""

    name = "small"
    native_size, native_channels = 32, 3
    native_mean, native_std = MEAN, STD
    class_names = tuple("0123456789")
    count = 50_000

    def load(self, split: Split) -> ImageArray | None:
        """Make the images of train or val; None for test."""
        if split == "test":
            return None
        count = self.count if split == "train" else 256
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageArray(images, torch.arange(count) % 10)


class SmallPillowImages(Dataset[tuple[Tensor, int]]):
    """The same as torchvision's CIFAR10 returns it: one Pillow image per item."""

    change = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(32, 4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(Image.fromarray(self.images[index])), index % 10


class TimedLoader:
    """A loader that measures the time spent waiting for batches; Throughput reads `wait_s`."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.wait_s = batches, 0.0

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches, and measure the wait for each."""
        start = perf_counter()
        for batch in self.batches:
            self.wait_s += perf_counter() - start
            yield batch
            start = perf_counter()


def train_small_cnn(*, peer: bool) -> Throughput:
    """Train a CNN on images of 32x32 for an epoch on the CPU; `peer` loads them with torch's DataLoader."""
    data = SmallImages(batch_size=BATCH, augmentation=SMALL_AUGMENTATION)
    data.count = 4096
    data.setup("fit")
    throughput = Throughput()
    model = ImageClassifier(partial(CNN, widths=(32, 32, 64, 64)), 10, in_channels=3, image_size=32, mean=MEAN, std=STD)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=10, callbacks=[throughput],
    )  # fmt: skip
    # No persistent workers: the garbage collector would wait 10 s for them to exit, during another measurement.
    by_image = DataLoader(SmallPillowImages(data.count), BATCH, num_workers=WORKERS)
    trainer.fit(model, TimedLoader(by_image) if peer else data.train_dataloader())
    return throughput
