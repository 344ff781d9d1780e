"""The files of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
