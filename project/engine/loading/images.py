"""The protocol of image stores, their digest, and the simplest store, an array in memory."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from project.engine.loading.crop import Crop, are_masks
from project.engine.loading.workers import Workers

Batch = tuple[Tensor, Tensor]

_IMAGES_OF_SPLIT = 64
"""Number of images of a split from which its digest is computed."""


class Request(NamedTuple):
    """Request of a step: indices of images, (N,) int64, and keys of their random draws, None for no randomness.

    Both are on the CPU, or on the device of the images.
    """

    indices: Tensor
    keys: Tensor | None


class Fetched(NamedTuple):
    """The result of a request.

    images: (N, C, H, W) uint8.
    targets: (N, ...).
    keys: Those of the request.
    crop: The crop that is still to be done, on the device; None if the images are cropped.
    """

    images: Tensor
    targets: Tensor
    keys: Tensor | None
    crop: Crop | None = None

    def cropped(self) -> Batch:
        """Return the images as squares, and their targets."""
        return (self.images, self.targets) if self.crop is None else self.crop(self.images, self.targets, self.keys)


class Images(Protocol):
    """Images with targets, which are fetched in batches."""

    targets: Tensor
    """(N, ...): such as labels (N,) int64, numbers (N, K) float, or masks (N, H, W) uint8."""
    advice: ClassVar[str]
    """Advice for a training that waits for batches."""

    def __len__(self) -> int: ...

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the batches of the requests, in their order; each is cropped, or contains its crop for the device."""
        ...

    def subset(self, indices: Tensor) -> "Images":
        """The images at these positions."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def fetch(images: Images, indices: Tensor, crop: Crop) -> Fetched:
    """Return the images at these positions, without randomness.

    Args:
        images: The store.
        indices: (N,) int64.
        crop: The crop; random parts are not used.
    """
    part = images.subset(indices)  # A subset has buffers of its own.
    (fetched,) = part.stream(iter([Request(torch.arange(len(indices)), None)]), Workers(num=0, pin_memory=False), crop)
    return fetched


def images_digest(header: str, splits: Iterable[Images], crop: Crop) -> str:
    """Return 8 hexadecimal digits that change with the header, all targets, and pixels sampled from each split."""
    hashed = hashlib.sha256(header.encode())
    with torch.random.fork_rng(devices=[]):  # A user's dataset may draw random numbers.
        torch.manual_seed(0)
        for split in splits:
            fetched = fetch(split, torch.arange(0, len(split), -(-len(split) // _IMAGES_OF_SPLIT)), crop)
            hashed.update(split.targets.numpy().tobytes() + fetched.images.numpy().tobytes())
    return hashed.hexdigest()[:8]


class ImageArray:
    """Images in memory, or in a file that is mapped into memory; a batch is one gather.

    Args:
        images: (N, C, H, W) uint8.
        targets: (N, ...): labels (N,) int64, numbers (N,) or (N, K) float, or masks (N, H, W) uint8.
        rows: Rows of `images` in use, in their order; None uses all. Subsets share the array.

    Raises:
        ValueError: The numbers of images and targets, or the sizes of images and masks, differ.
    """

    advice: ClassVar[str] = "making the batches takes this time: try a larger --data.batch_size, or less augmentation"

    def __init__(self, images: Tensor, targets: Tensor, rows: Tensor | None = None) -> None:
        self._all, self.targets, self._rows = images, targets, rows
        if len(targets) != len(images if rows is None else rows):
            raise ValueError(f"ImageArray: got {len(targets):,} targets for {len(images):,} images")
        if are_masks(targets) and targets.shape[1:] != images.shape[2:]:
            raise ValueError(
                f"ImageArray: got masks of {tuple(targets.shape[1:])} pixels for images of {tuple(images.shape[2:])}"
            )

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8; a copy if this is a subset."""
        return self._all if self._rows is None else self._all[self._rows]

    def __len__(self) -> int:
        return len(self.targets)

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the batches of the requests; each is gathered on demand."""
        for indices, keys in requests:
            images = self._all.index_select(0, indices if self._rows is None else self._rows[indices])
            targets = self.targets.index_select(0, indices)
            yield Fetched(images.pin_memory() if workers.pin_memory else images, targets, keys, crop)

    def subset(self, indices: Tensor) -> "ImageArray":
        """Return the images at these positions without copying them."""
        rows = indices if self._rows is None else self._rows[indices]
        return ImageArray(self._all, self.targets[indices], rows)

    def to(self, device: torch.device) -> "ImageArray":
        """Return these images and targets in the memory of a device; on the CPU, they are not copied."""
        if self._all.device == device:
            return self
        return ImageArray(self.images.to(device), self.targets.to(device))

    def close(self) -> None:
        """Do nothing: the array has no workers."""
