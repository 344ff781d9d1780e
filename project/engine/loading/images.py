"""The protocol of image stores, and the simplest store, an array in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Request(NamedTuple):
    """Request of a step: indices of images, (N,) int64, and keys of their random draws, None for no randomness."""

    indices: Tensor
    keys: Tensor | None


class Fetched(NamedTuple):
    """The result of a request: images (N, C, H, W) uint8, labels (N,) int64 and the keys of the request."""

    images: Tensor
    labels: Tensor
    keys: Tensor | None


@dataclass(frozen=True)
class Workers:
    """Threads or processes that fetch batches before they are needed.

    Args:
        num_workers: Threads or processes; 0 fetches in the training thread when a batch is requested.
        prefetch_factor: Batches kept ready, by all threads together or by each process.
        persistent_workers: Keep processes between epochs.
        pin_memory: Put batches into page-locked memory.
        timeout_s: Longest wait for a batch in seconds.
    """

    num_workers: int = 0
    prefetch_factor: int = 2
    persistent_workers: bool = True
    pin_memory: bool = False
    timeout_s: int = 120


class Images(Protocol):
    """Labelled images that are fetched in batches."""

    labels: Tensor
    """(N,) int64."""
    needs_workers: ClassVar[bool]
    """Whether fetching is so slow that workers should do it in advance."""
    crops: bool
    """Whether `stream` takes random resized crops itself, because this is cheaper before or during decoding."""
    advice: ClassVar[str]
    """Advice for a training that waits for batches."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return images (N, C, H, W) uint8 and labels (N,) int64."""
        ...

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """Yield the batches of the requests, in their order."""
        ...

    def subset(self, indices: Tensor) -> "Images":
        """The images at these positions."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class ImageArray:
    """Images in memory, or in a file that is mapped into memory; a batch is one gather.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        rows: Rows of `images` in use, in their order; None uses all. Subsets share the array.
    """

    needs_workers: ClassVar[bool] = False
    crops: bool = False
    advice: ClassVar[str] = "making batches takes it: try a larger --data.batch_size, or less augmentation"

    def __init__(self, images: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        self._all, self.labels, self._rows = images, labels, rows

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8; a copy if this is a subset."""
        return self._all if self._rows is None else self._all[self._rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = indices if self._rows is None else self._rows[indices]
        return self._all.index_select(0, rows), self.labels.index_select(0, indices)

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """Yield the batches of the requests; each is gathered on demand."""
        for indices, keys in requests:
            images, labels = self[indices]
            yield Fetched(images.pin_memory() if workers.pin_memory else images, labels, keys)

    def subset(self, indices: Tensor) -> "ImageArray":
        """Return the images at these positions without copying them."""
        rows = indices if self._rows is None else self._rows[indices]
        return ImageArray(self._all, self.labels[indices], rows)

    def close(self) -> None:
        """Do nothing: there are no workers."""
