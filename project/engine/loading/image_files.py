"""Image files that threads decode directly into the memory of a batch.

request -> boxes, drawn from keys      a random part of each image, or the centre square
        -> memory that is reused       (N, size, size, 3) uint8: torch's memory format channels_last
        -> threads: each reads, decodes and resizes a few images, without Python's lock
        -> batch, when all images are written
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from project.engine.loading.crop import Crop, are_masks
from project.engine.loading.decode import UNREADABLE, Pixels, Scratch, decode_rgb, scale_box, write_resized
from project.engine.loading.images import Fetched, Request
from project.engine.loading.square import write_square
from project.engine.loading.threads import Buffers, Threads, wait_for
from project.engine.loading.workers import LoadingError, Workers

_IMAGES_A_CALL = 8


@dataclass(frozen=True)
class FileList:
    """Files under a folder; each `Path` is created when it is accessed, because a million of them take 400 MB.

    Args:
        root: The folder.
        names: Paths relative to `root`.
    """

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.root / self.names[index]


class Sources(Protocol):
    """Files by index, such as a `FileList`, or their pixels if they are already decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Path | Pixels: ...


class ImageFiles:
    """Image files, decoded as RGB on demand; each thread crops and resizes the images that it decodes.

    Args:
        paths: Files that can be decoded, or their pixels.
        targets: (files, ...): labels int64, or numbers float; no masks.
        sizes: (files, 2) integers, height and width of the upright images; see `check_files`.
        bit_depth: Number of bits of the values in 16-bit files, from 8 to 16.
        rows: Indices of the N files in use, (N,) int64, in their order; None uses all. Subsets share the rest.

    Raises:
        ValueError: The targets are masks, which are not cropped with files.
    """

    advice: ClassVar[str] = "try more threads: --data.workers.num N, or decoding once: --data.cache on"

    def __init__(
        self, paths: Sources, targets: Tensor, sizes: Tensor, bit_depth: int = 16, rows: Tensor | None = None
    ) -> None:
        if are_masks(targets):
            raise ValueError(
                "ImageFiles takes no masks, which have files of their own; return ImageArray or TorchDataset"
            )
        self.paths, self._all_targets, self.sizes, self._rows = paths, targets, sizes, rows
        self.targets = targets if rows is None else targets[rows]
        self.bit_depth = bit_depth
        self._buffers: Buffers | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Tensor) -> "ImageFiles":
        """Return the images at these positions."""
        rows = indices if self._rows is None else self._rows[indices]
        return ImageFiles(self.paths, self._all_targets, self.sizes, self.bit_depth, rows)

    def close(self) -> None:
        """Release the memory of the batches; threads end with their stream."""
        self._buffers = None

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the batches of the requests; meanwhile, threads work on the next ones.

        Raises:
            LoadingError: A file cannot be decoded, or a batch takes longer than `timeout_s`.
        """
        count = workers.count()
        threads = Threads(count)
        shape = (crop.size, crop.size, 3)
        if self._buffers is None or self._buffers.shape != shape:  # The buffers are reused in all epochs.
            self._buffers = Buffers(shape, pin_memory=workers.pin_memory)
        buffers = self._buffers
        depth = workers.prefetch_factor if count else 0
        ahead: deque[tuple[Fetched, list[Future[None]]]] = deque()
        try:
            for request in requests:
                ahead.append(self._start(request, crop, threads, buffers))
                if len(ahead) > depth:
                    yield _finished(*ahead.popleft(), workers.timeout_s)
            while ahead:
                yield _finished(*ahead.popleft(), workers.timeout_s)
        finally:
            threads.close()

    def _start(
        self, request: Request, crop: Crop, threads: Threads, buffers: Buffers
    ) -> tuple[Fetched, list[Future[None]]]:
        indices = request.indices
        array, images = buffers.take(len(indices))
        rows = indices if self._rows is None else self._rows[indices]
        boxes = crop.boxes(self.sizes[rows].long(), request.keys)
        places = list(zip(rows.tolist(), boxes.tolist(), strict=True))
        # Each call holds the whole array: memory is not reused while a call may still write to it.
        calls = [
            threads.submit(partial(self._decode, places[first : first + _IMAGES_A_CALL], array, first))
            for first in range(0, len(places), _IMAGES_A_CALL)
        ]
        return Fetched(images.permute(0, 3, 1, 2), self.targets[indices], request.keys), calls

    def _decode(self, places: Sequence[tuple[int, Sequence[int]]], out: Pixels, first: int) -> None:
        scratch = Scratch()
        for (index, box), target in zip(places, out[first:], strict=False):
            self._write(index, box, target, scratch)

    def _write(self, index: int, box: Sequence[int], out: Pixels, scratch: Scratch) -> None:
        """Write a part of the file at an index, resized, to `out`, (size, size, 3)."""
        path = self.paths[index]
        try:
            if isinstance(path, Path):
                image = decode_rgb(path.read_bytes(), min(box[2:]) // len(out), scratch, self.bit_depth)
                write_resized(image.pixels, scale_box(box, image.scale), out)
            else:
                write_resized(path, box, out)
        except (*UNREADABLE, RuntimeError) as error:
            # RuntimeError: the file has changed, and the box is outside of it.
            raise LoadingError(f"cannot read {path}, which could be read when it was checked: {error}") from error


class UncheckedFiles(ImageFiles):
    """Files that were not checked: threads read their sizes, and record those that cannot be decoded.

    The target of a file is its index.

    Args:
        paths: Files, some of which may not be images.
        bit_depth: Number of bits of the values in 16-bit files, from 8 to 16.

    Attributes:
        bad: The reason why a file cannot be decoded, by its index; its pixels are black.
    """

    def __init__(self, paths: Sequence[Path], bit_depth: int = 16) -> None:
        super().__init__(paths, torch.arange(len(paths)), torch.zeros(len(paths), 2), bit_depth)  # of unknown sizes
        self.bad: dict[int, str] = {}

    @override
    def _write(self, index: int, box: Sequence[int], out: Pixels, scratch: Scratch) -> None:
        path = self.paths[index]
        assert isinstance(path, Path)
        try:
            write_square(path.read_bytes(), out, scratch, self.bit_depth)
        except UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.bad[index] = " ".join(reason.split()) or type(error).__name__
            out[:] = 0


def _finished(fetched: Fetched, calls: Sequence[Future[None]], timeout_s: float) -> Fetched:
    deadline = monotonic() + timeout_s
    for call in calls:
        wait_for(call, max(0.0, deadline - monotonic()))
    return fetched
