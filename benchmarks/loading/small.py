"""Images of CIFAR-10's size, by the batch and by the image, and a CNN that trains on them."""

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

SHIFTED = Augmentation(crop_padding=4, horizontal_flip=True)


class Small(LabelledImages):
    """Noise of CIFAR-10's size."""

    name = "small"
    native_size, native_channels = 32, 3
    native_mean, native_std = MEAN, STD
    class_names = tuple("0123456789")
    count = 50_000

    def load(self, split: Split) -> ImageArray | None:
        """The images of train or val."""
        if split == "test":
            return None
        count = self.count if split == "train" else 256
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageArray(images, torch.arange(count) % 10)


class SmallByImage(Dataset[tuple[Tensor, int]]):
    """The same as torchvision's CIFAR10 hands it out: a Pillow image at a time."""

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


class Waiting:
    """A loader whose waits are measured, for what Throughput asks of it."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.wait_s = batches, 0.0

    def __iter__(self) -> Iterator[Any]:
        """The batches."""
        start = perf_counter()
        for batch in self.batches:
            self.wait_s += perf_counter() - start
            yield batch
            start = perf_counter()


def trained(*, peer: bool) -> Throughput:
    """Train a CNN at 32x32 for an epoch on the CPU."""
    data = Small(batch_size=BATCH, augmentation=SHIFTED)
    data.count = 4096
    data.setup("fit")
    throughput = Throughput(10)
    model = ImageClassifier(partial(CNN, widths=(32, 32, 64, 64)), 10, in_channels=3, image_size=32, mean=MEAN, std=STD)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[throughput],
    )  # fmt: skip
    # Processes that persist would be joined by the garbage collector, for 10 s in the middle of another row.
    by_image = DataLoader(SmallByImage(data.count), BATCH, num_workers=WORKERS)
    trainer.fit(model, Waiting(by_image) if peer else data.train_dataloader())
    return throughput
