"""Image files that threads decode directly into the memory of a batch.

request -> boxes, drawn from keys      a random part of each image, or the centre square
        -> memory that is reused       (N, size, size, 3) uint8: torch's memory format channels_last
        -> threads: each reads, decodes and resizes a few images, without Python's lock
        -> batch, when all images are written
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from time import monotonic
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from project.engine.loading.crop_boxes import center_squares, random_boxes
from project.engine.loading.decode import UNREADABLE, Pixels, Scratch, read_rgb, scale_box, write_resized
from project.engine.loading.errors import LoadingError
from project.engine.loading.images import Batch, Fetched, Request, Workers
from project.engine.loading.threads import Buffers, Threads, wait_for

_IMAGES_A_CALL = 8


class Sources(Protocol):
    """Files by index, such as a `FileList`, or their pixels if they are already decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Path | Pixels: ...


class ImageFiles:
    """Image files, decoded as RGB on demand, cropped and resized to squares.

    Args:
        paths: Files that can be decoded, or their pixels.
        labels: Their labels, int64.
        sizes: (files, 2) integers, height and width of the upright images; see `check_files`.
        image_size: Side of the squares in pixels.
        min_area: Smallest share of a train image that a random crop keeps, in (0, 1]; None takes the centre square.
        bit_depth: Number of bits of the values in 16-bit files, from 8 to 16.
        rows: Indices of the N files in use, (N,) int64, in their order; None uses all. Subsets share the rest.
    """

    needs_workers: ClassVar[bool] = True
    advice: ClassVar[str] = "try more threads: --data.num_workers N, or decoding once: --data.cache on"

    def __init__(
        self,
        paths: Sources,
        labels: Tensor,
        sizes: Tensor,
        image_size: int,
        min_area: float | None = None,
        bit_depth: int = 16,
        rows: Tensor | None = None,
    ) -> None:
        self.paths, self._all_labels, self.sizes, self._rows = paths, labels, sizes, rows
        self.labels = labels if rows is None else labels[rows]
        self.image_size, self.min_area, self.bit_depth = image_size, min_area, bit_depth
        self.crops = min_area is not None
        self._buffers: Buffers | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        part = self.subset(indices)  # A subset has buffers of its own.
        (fetched,) = part.stream(iter([Request(torch.arange(len(indices)), None)]), Workers())
        return fetched.images, fetched.labels

    def subset(self, indices: Tensor) -> "ImageFiles":
        """Return the images at these positions."""
        return ImageFiles(
            self.paths,
            self._all_labels,
            self.sizes,
            self.image_size,
            self.min_area,
            self.bit_depth,
            indices if self._rows is None else self._rows[indices],
        )

    def close(self) -> None:
        """Release the memory of the batches; threads end with their stream."""
        self._buffers = None

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """Yield the batches of the requests; meanwhile, threads work on the next ones.

        Raises:
            LoadingError: A file cannot be decoded, or a batch takes longer than `timeout_s`.
        """
        threads = Threads(workers.num_workers)
        if self._buffers is None:  # The buffers are reused in all epochs.
            self._buffers = Buffers((self.image_size, self.image_size, 3), pin_memory=workers.pin_memory)
        buffers = self._buffers
        depth = workers.prefetch_factor if workers.num_workers else 0
        ahead: deque[tuple[Fetched, list[Future[None]]]] = deque()
        try:
            for request in requests:
                ahead.append(self._start(request, threads, buffers))
                if len(ahead) > depth:
                    yield _finished(*ahead.popleft(), workers.timeout_s)
            while ahead:
                yield _finished(*ahead.popleft(), workers.timeout_s)
        finally:
            threads.close()

    def _start(self, request: Request, threads: Threads, buffers: Buffers) -> tuple[Fetched, list[Future[None]]]:
        indices = request.indices
        array, images = buffers.take(len(indices))
        rows = indices if self._rows is None else self._rows[indices]
        sizes = self.sizes[rows].long()
        if request.keys is None or self.min_area is None:
            boxes = center_squares(sizes)
        else:
            boxes = random_boxes(request.keys, sizes, self.min_area)
        places = [(self.paths[index], tuple(box)) for index, box in zip(rows.tolist(), boxes.tolist(), strict=True)]
        calls = [
            threads.submit(partial(_decode, places[first : first + _IMAGES_A_CALL], array, first, self.bit_depth))
            for first in range(0, len(places), _IMAGES_A_CALL)
        ]  # Each call holds the whole array: memory is not reused while a call may still write to it.
        return Fetched(images.permute(0, 3, 1, 2), self.labels[indices], request.keys), calls


def _decode(
    places: Sequence[tuple[Path | Pixels, tuple[int, int, int, int]]], out: Pixels, first: int, bit_depth: int
) -> None:
    scratch = Scratch()
    for (path, box), target in zip(places, out[first:], strict=False):
        try:
            if isinstance(path, Path):
                image = read_rgb(path, min(box[2:]) // len(target), scratch, bit_depth)
                write_resized(image.pixels, scale_box(box, image.scale), target)
            else:
                write_resized(path, box, target)
        except (
            *UNREADABLE,
            RuntimeError,
        ) as error:  # RuntimeError: the file has changed, and the box is outside of it.
            raise LoadingError(f"cannot read {path}, which could be read when it was checked: {error}") from error


def _finished(fetched: Fetched, calls: Sequence[Future[None]], timeout_s: float) -> Fetched:
    deadline = monotonic() + timeout_s
    for call in calls:
        wait_for(call, max(0.0, deadline - monotonic()))
    return fetched
