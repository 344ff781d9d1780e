"""The base class of torchvision's datasets that fit in memory."""

import os
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray

from project.data.in_memory import shared
from project.data.labelled import LabelledImages
from project.engine.loading import ImageArray, Split


class TorchvisionImages(LabelledImages):
    """Images of a class of `torchvision.datasets` that has the splits train and test.

    Args:
        root: Folder that contains the folder of the dataset, such as `root/MNIST/`. Missing files are downloaded there.
        options: See `LabelledImages`.
    """

    declared: ClassVar[tuple[str, ...]] = (*LabelledImages.declared, "dataset", "folder")
    dataset: ClassVar[str]
    """Name of the class."""
    folder: ClassVar[str]
    """Folder of its files, in `root`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "dataset" in vars(cls) and "folder" not in vars(cls):  # It would read the cache of its base class.
            raise TypeError(f"{cls.__name__} sets dataset to {cls.dataset!r} and not folder, the place of its files")

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(os.path.expanduser(root))  # noqa: PTH111  # pathlib raises for an unknown user
        self.source = str(self.root / self.folder)

    def prepare_data(self) -> None:
        """Download missing files.

        Raises:
            OSError: They cannot be downloaded.
        """
        try:
            for train in (True, False):
                self._opened(train=train, download=True)
        except (URLError, RuntimeError) as error:  # RuntimeError: every mirror failed, or a damaged file
            raise OSError(
                f"data.root: {self.dataset} is not complete under {str(self.root)!r} and cannot be downloaded "
                f"({' '.join(str(error).split())[:160]}); copy its files there, or set data.root to their folder"
            ) from error

    def load(self, split: Split) -> ImageArray | None:
        """Map train or test into memory."""
        if split == "val":
            return None

        def read() -> tuple[NDArray[Any], NDArray[Any]]:
            source = self._opened(train=split == "train")
            pixels = np.asarray(source.data)  # (N, H, W) or (N, H, W, C)
            images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
            return np.ascontiguousarray(images), np.asarray(source.targets)

        return shared(self.root / self.folder, split, read)

    def _opened(self, **options: bool) -> Any:
        from torchvision import datasets  # It takes seconds to import, and training on other data does not need it.

        return getattr(datasets, self.dataset)(self.root, **options)
