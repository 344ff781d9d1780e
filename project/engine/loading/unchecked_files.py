"""Image files that were not checked before: a file that cannot be decoded is recorded, and does not end the stream."""

from collections.abc import Sequence
from pathlib import Path

import torch
from typing_extensions import override

from project.engine.loading.decode import UNREADABLE, Pixels, Scratch
from project.engine.loading.image_files import ImageFiles
from project.engine.loading.square import write_square


class UncheckedFiles(ImageFiles):
    """Files whose sizes are read by the threads that decode them. The target of a file is its index.

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
