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
from project.loading.threads import Threads

_AS_SMALL_AS_CAN_BE = 8
_FILES_A_CALL = 16


class Checked(NamedTuple):
    """What was found.

    sizes: (N, 2) int64, height and width of the upright images; 0 for bad files.
    bad: Why a file cannot be read, by its place.
    """

    sizes: Tensor
    bad: dict[int, str]


def check_files(paths: Sequence[Path], path: Path, threads: int) -> Checked:
    """Decode every file once: truncated, empty and foreign files are found, and images of absurd size.

    Args:
        paths: N files.
        path: JSON file that keeps the result; where it exists, nothing is decoded.
        threads: Threads that decode.
    """
    made_once(path, lambda unfinished: _check_all(paths, threads, unfinished))
    found = json.loads(path.read_text())
    return Checked(torch.tensor(found["sizes"]).view(-1, 2), {int(place): why for place, why in found["bad"].items()})


def _check_all(paths: Sequence[Path], count: int, out: Path) -> None:
    sizes: list[tuple[int, int]] = [(0, 0)] * len(paths)
    bad: dict[int, str] = {}
    threads = Threads(count)
    try:
        calls = [
            threads.submit(partial(_check, paths[first : first + _FILES_A_CALL], first, sizes, bad))
            for first in range(0, len(paths), _FILES_A_CALL)
        ]
        for call in shown(calls, len(calls), "checking images"):
            call.result()
    finally:
        threads.close()
    out.write_text(json.dumps({"sizes": sizes, "bad": dict(sorted(bad.items()))}))


def _check(paths: Sequence[Path], first: int, sizes: list[tuple[int, int]], bad: dict[int, str]) -> None:
    for place, path in enumerate(paths, first):
        try:
            sizes[place] = read_rgb(path, _AS_SMALL_AS_CAN_BE).size
        except UNREADABLE as error:
            bad[place] = " ".join(str(error).split()) or type(error).__name__
