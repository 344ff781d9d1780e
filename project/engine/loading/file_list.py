"""Paths of many files in little memory, which processes can share."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class FileList:
    """Paths of files under a folder; each `Path` is created when it is accessed.

    A million paths take about 50 MB. If the tensors are mapped from a file, processes share this memory. A list of
    `Path` would take 400 MB in each process.

    Args:
        root: The folder.
        names: (B,) uint8, paths relative to `root`, concatenated.
        ends: (N,) int64, the end of each path in `names`.
    """

    def __init__(self, root: Path, names: Tensor, ends: Tensor) -> None:
        self.root, self.names, self.ends = root, names, ends

    @classmethod
    def of(cls, root: Path, names: Iterable[str]) -> "FileList":
        """Make a list from paths relative to `root`."""
        encoded = [os.fsencode(name) for name in names]
        ends = torch.tensor([len(name) for name in encoded], dtype=torch.int64).cumsum(0)
        return cls(root, torch.from_numpy(np.frombuffer(bytearray(b"".join(encoded)), np.uint8)), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Path:
        return self.root / self.name(index)

    def name(self, index: int) -> str:
        """Return a path relative to the folder."""
        first = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[first : int(self.ends[index])].numpy().tobytes())
