"""CIFAR-10, as torchvision downloads it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from project.data.download import downloaded
from project.data.in_memory import shared
from project.data.labelled import LabelledImages
from project.data.root import data_root
from project.engine.loading import ImageArray, Split


class CIFAR10(LabelledImages):
    """Colour images of ten classes, 32x32 pixels: 50,000 for train, 10,000 for test.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        root: Folder of the files: `root/cifar-10-batches-py/`. Missing files are downloaded there.
        options: See `LabelledImages`.
    """

    name = "cifar10"
    native_size, native_channels = 32, 3
    native_mean, native_std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.root = data_root(root)
        self.source = str(self.root)

    def prepare_data(self) -> None:
        """Download missing files."""
        from torchvision import datasets  # It takes seconds to import.

        downloaded(datasets.CIFAR10, self.root)

    def load(self, split: Split) -> ImageArray | None:
        """Map train or test into memory."""
        if split == "val":
            return None
        from torchvision import datasets  # It takes seconds to import.

        def read() -> tuple[NDArray[Any], NDArray[Any]]:
            source = datasets.CIFAR10(self.root, train=split == "train")
            return np.ascontiguousarray(source.data.transpose(0, 3, 1, 2)), np.array(source.targets)

        return shared(Path(self.root, datasets.CIFAR10.base_folder), split, read)
