"""A checked list of image files, stored in one file that ranks and later runs map into memory."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor

from project.engine.loading.file_list import FileList
from project.engine.loading.verify import Checked


class FileTable(NamedTuple):
    """N image files of a split, with the results of their check.

    labels: (N,) int64.
    sizes: (N, 2) int32, height and width of the upright images; 0 for bad files.
    bad: Reason why a file cannot be decoded, by its index.
    peak: Largest value in all 16-bit files; 0 without such files.
    """

    files: FileList
    labels: Tensor
    sizes: Tensor
    bad: dict[int, str]
    peak: int


def save_table(path: Path, files: FileList, labels: Tensor, checked: Checked) -> None:
    """Write a table that `open_table` can open."""
    torch.save({"names": files.names, "ends": files.ends, "labels": labels, **checked._asdict()}, path)


def open_table(path: Path, root: Path) -> FileTable:
    """Map a table into memory; processes share its pages.

    Raises:
        OSError: The file is damaged.
    """
    try:
        # torch requires a UTF-8 name for a file that it maps; other names are read without mapping.
        is_utf8 = os.fsencode(path) == str(path).encode("utf-8", "surrogatepass")
        kept = torch.load(path, mmap=is_utf8, weights_only=True)
        files = FileList(root, kept["names"], kept["ends"])
        return FileTable(files, kept["labels"], kept["sizes"], kept["bad"], kept["peak"])
    except (RuntimeError, UnpicklingError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise OSError(f"{path} is damaged ({reason}); remove it; it will be made again") from error
