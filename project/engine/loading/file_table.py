"""A checked list of image files in one file that ranks and later runs map into memory."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor

from project.engine.loading.file_list import FileList
from project.engine.loading.verify import Checked


class FileTable(NamedTuple):
    """N image files of a split, with what is known of them.

    labels: (N,) int64.
    sizes: (N, 2) int32, height and width of the upright images; 0 for bad files.
    bad: Why a file cannot be decoded, by its place.
    peak: Largest value in a file of 16 bits; 0 without such files.
    """

    files: FileList
    labels: Tensor
    sizes: Tensor
    bad: dict[int, str]
    peak: int


def save_table(path: Path, files: FileList, labels: Tensor, checked: Checked) -> None:
    """Write a table to be opened by `open_table`."""
    torch.save({"names": files.names, "ends": files.ends, "labels": labels, **checked._asdict()}, path)


def open_table(path: Path, root: Path) -> FileTable:
    """Map a table into memory; processes that have it open share its pages.

    Raises:
        OSError: The file is damaged.
    """
    try:
        # torch takes the name of a file that it maps for UTF-8, which names and locales may not be.
        is_utf8 = os.fsencode(path) == str(path).encode("utf-8", "surrogatepass")
        kept = torch.load(path, mmap=is_utf8, weights_only=True)
        files = FileList(root, kept["names"], kept["ends"])
        return FileTable(files, kept["labels"], kept["sizes"], kept["bad"], kept["peak"])
    except (RuntimeError, UnpicklingError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise OSError(f"{path} is damaged ({reason}); remove it, and it is made again") from error
