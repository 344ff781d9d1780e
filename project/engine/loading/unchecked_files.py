"""Image files that were not checked before: a file that cannot be decoded is recorded, and does not end the stream."""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from typing_extensions import override

from project.engine.loading.crop import Crop
from project.engine.loading.decode import UNREADABLE, Pixels, Scratch
from project.engine.loading.image_files import IMAGES_A_CALL, ImageFiles
from project.engine.loading.images import Fetched, Request
from project.engine.loading.square import write_square
from project.engine.loading.threads import Buffers, Threads


class UncheckedFiles(ImageFiles):
    """Files whose sizes are read by the threads that decode them. The target of a file is its index.

    Args:
        paths: Files, some of which may not be images.
        bit_depth: Number of bits of the values in 16-bit files, from 8 to 16.

    Attributes:
        bad: The reason why a file cannot be decoded, by its index; its pixels are black.
    """

    advice: ClassVar[str] = "try more threads: --workers N"

    def __init__(self, paths: Sequence[Path], bit_depth: int = 16) -> None:
        super().__init__(paths, torch.arange(len(paths)), torch.empty(0, 2), bit_depth)
        self.bad: dict[int, str] = {}

    @override
    def _start(
        self, request: Request, crop: Crop, threads: Threads, buffers: Buffers
    ) -> tuple[Fetched, list[Future[None]]]:
        array, images = buffers.take(len(request.indices))
        indices = request.indices.tolist()
        calls = [
            threads.submit(partial(self._decode, indices[first : first + IMAGES_A_CALL], array, first))
            for first in range(0, len(indices), IMAGES_A_CALL)
        ]
        return Fetched(images.permute(0, 3, 1, 2), request.indices, None), calls

    def _decode(self, indices: Sequence[int], out: Pixels, first: int) -> None:
        scratch = Scratch()
        for index, target in zip(indices, out[first:], strict=False):
            path = self.paths[index]
            assert isinstance(path, Path)
            try:
                write_square(path.read_bytes(), target, scratch, self.bit_depth)
            except UNREADABLE as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self.bad[index] = " ".join(reason.split()) or type(error).__name__
                target[:] = 0
