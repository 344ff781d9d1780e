"""The pass over all files before the first training on them: which are damaged, and how large the others are."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from project.loading.decode import UNREADABLE, read_rgb
from project.loading.durable import made_once
from project.loading.progress import shown
from project.loading.threads import Threads, wait_for

_AS_SMALL_AS_CAN_BE = 8
_FILES_A_CALL = 16


class Checked(NamedTuple):
    """What was found.

    sizes: (N, 2) int64, height and width of the upright images; 0 for bad files.
    bad: Why a file cannot be read, by its place.
    """

    sizes: Tensor
    bad: dict[int, str]


def check_files(paths: Sequence[Path], path: Path, threads: int, timeout_s: int = 120) -> Checked:
    """Decode every file once: truncated, empty and foreign files are found, and images of absurd size.

    Args:
        paths: N files.
        path: JSON file that keeps the result; where it exists, nothing is decoded.
        threads: Threads that decode.
        timeout_s: Longest time that a few files may take.

    Raises:
        OSError: Files are not damaged but cannot be read: for want of permission, or as the disk has failed.
        LoadingError: A read hangs.
    """
    made_once(path, lambda unfinished: _check_all(paths, threads, timeout_s, unfinished))
    try:
        found = json.loads(path.read_text())
        sizes = torch.tensor(found["sizes"], dtype=torch.int64).view(len(paths), 2)
        return Checked(sizes, {int(place): why for place, why in found["bad"].items()})
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise OSError(f"{path} is damaged ({error}); remove it, and it is made anew") from error


def _check_all(paths: Sequence[Path], count: int, timeout_s: int, out: Path) -> None:
    sizes: list[tuple[int, int]] = [(0, 0)] * len(paths)
    bad: dict[int, str] = {}
    denied: list[OSError] = []
    threads = Threads(max(1, count))  # so that progress shows, whoever loads later
    try:
        calls = [
            threads.submit(partial(_check, paths[first : first + _FILES_A_CALL], first, sizes, bad, denied))
            for first in range(0, len(paths), _FILES_A_CALL)
        ]
        for call in shown(calls, len(calls), "checking images"):
            wait_for(call, timeout_s)
    finally:
        threads.close()
    if denied:  # which may be over tomorrow, so that no report must remember it
        raise OSError(
            f"data.root: {len(denied)} of {len(paths):,} files cannot be read, damaged or not; give the right to read "
            f"them, or look at the disk; the first: {denied[0]}"
        )
    out.write_text(json.dumps({"sizes": sizes, "bad": dict(sorted(bad.items()))}))


def _check(
    paths: Sequence[Path], first: int, sizes: list[tuple[int, int]], bad: dict[int, str], denied: list[OSError]
) -> None:
    for place, path in enumerate(paths, first):
        if not path.is_file():  # a folder, a link to nowhere, or a pipe, whose reading would wait for ever
            bad[place] = "no file"
            continue
        try:
            sizes[place] = read_rgb(path, _AS_SMALL_AS_CAN_BE).size
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's; those of decoders have no number
                denied.append(error)
            bad[place] = " ".join(str(error).split()) or type(error).__name__
