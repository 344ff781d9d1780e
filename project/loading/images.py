"""Where images live. Each store hands out whole batches: `store[indices] -> (images, labels)`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Images(Protocol):
    """Labelled images that are fetched by the batch."""

    labels: Tensor
    """(N,) int64."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int]) -> Batch:
        """Images (N, C, H, W) uint8 and labels (N,) int64."""
        ...

    def subset(self, indices: Tensor) -> "Images":
        """The images at these positions."""
        ...


class ImageArray:
    """Images in memory; a batch is one gather.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        return self.images[indices], self.labels[indices]

    def subset(self, indices: Tensor) -> "ImageArray":
        """The images at these positions."""
        return ImageArray(self.images[indices], self.labels[indices])


class ImageFiles:
    """Image files, decoded as RGB when they are asked for, resized and cropped to squares.

    Args:
        paths: N files that Pillow can decode (JPEG, PNG, WebP, GIF, BMP).
        labels: (N,) int64.
        image_size: Side of the squares in pixels.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, image_size: int) -> None:
        self.paths, self.labels, self.image_size = paths, labels, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Batch:
        return torch.stack([self._read(self.paths[index]) for index in indices]), self.labels[indices]

    def subset(self, indices: Tensor) -> "ImageFiles":
        """The images at these positions."""
        return ImageFiles([self.paths[index] for index in indices.tolist()], self.labels[indices], self.image_size)

    def _read(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except OSError as error:  # also what is no image
            raise ValueError(f"cannot decode {path}: {error}") from error
        square = ImageOps.fit(upright, (self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)
