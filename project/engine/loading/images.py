"""Where images live: what a store of them promises, and the simplest of them, an array in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Request(NamedTuple):
    """What a step asks for: places in the store, (N,) int64, and keys of what is drawn, None for no randomness."""

    indices: Tensor
    keys: Tensor | None


class Fetched(NamedTuple):
    """What a step gets: images (N, C, H, W) uint8, labels (N,) int64 and the keys of the request."""

    images: Tensor
    labels: Tensor
    keys: Tensor | None


@dataclass(frozen=True)
class Workers:
    """Who fetches batches ahead of their use.

    Args:
        num_workers: Threads or processes; 0 fetches in the training thread when a batch is asked for.
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
    """Labelled images that are fetched by the batch."""

    labels: Tensor
    """(N,) int64."""
    needs_workers: ClassVar[bool]
    """Whether fetching takes long enough to be done ahead."""
    crops: bool
    """Whether `stream` takes random resized crops itself, as it is cheaper before or while decoding."""
    advice: ClassVar[str]
    """What to try when training waits for batches."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch:
        """Images (N, C, H, W) uint8 and labels (N,) int64."""
        ...

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """The batches of the requests, in their order."""
        ...

    def subset(self, indices: Tensor) -> "Images":
        """The images at these positions."""
        ...

    def close(self) -> None:
        """End what works ahead."""
        ...


class ImageArray:
    """Images in memory, or in a file that is mapped into it; a batch is one gather.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        rows: Rows of `images` that the store has, in its order; None is all. Subsets share the array.
    """

    needs_workers: ClassVar[bool] = False
    crops: bool = False
    advice: ClassVar[str] = "making batches takes it: try a larger --data.batch_size, or less augmentation"

    def __init__(self, images: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        self._all, self.labels, self._rows = images, labels, rows

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8; of a subset a copy."""
        return self._all if self._rows is None else self._all[self._rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = indices if self._rows is None else self._rows[indices]
        return self._all.index_select(0, rows), self.labels.index_select(0, indices)

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """The batches of the requests, each gathered when it is asked for."""
        for indices, keys in requests:
            images, labels = self[indices]
            yield Fetched(images.pin_memory() if workers.pin_memory else images, labels, keys)

    def subset(self, indices: Tensor) -> "ImageArray":
        """The images at these positions, without a copy of them."""
        rows = indices if self._rows is None else self._rows[indices]
        return ImageArray(self._all, self.labels[indices], rows)

    def close(self) -> None:
        """Nothing works ahead."""
