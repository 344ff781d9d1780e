"""The check of files that were not decoded before: it finds damaged files and the sizes of the others.

The result of each file is appended to a log, one JSON line per file. An interrupted check therefore continues, and if
a file changes, only this file is decoded again.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from project.engine.loading.decode import UNREADABLE, read_rgb
from project.engine.loading.file_list import FileList
from project.engine.loading.threads import Threads, wait_for
from project.engine.runtime.progress import with_progress_bar

_AS_SMALL_AS_CAN_BE = 8
_FILES_A_CALL = 16

_Key = tuple[str, int, int]
"""Path relative to the folder, size and modification time of a file."""

_Found = Sequence[int] | str
"""Height, width and largest 16-bit value of a file, or the reason why it cannot be decoded."""


class Checked(NamedTuple):
    """The results of a check.

    sizes: (N, 2) int32, height and width of the upright images; 0 for bad files.
    bad: Reason why a file cannot be decoded, by its index.
    peak: Largest value in all 16-bit files; 0 without such files.
    """

    sizes: Tensor
    bad: dict[int, str]
    peak: int


def check_files(files: FileList, stats: Tensor, log: Path, threads: int, timeout_s: int = 120) -> Checked:
    """Decode every file once, to find truncated, empty, foreign and absurdly large images.

    Args:
        files: N files.
        stats: (N, 2) int64, size in bytes and modification time in nanoseconds of each file.
        log: File of the results. Files in it with the same name, size and time are not decoded again. Processes that
            use it at the same time wait for each other.
        threads: Threads that decode.
        timeout_s: Longest time for a few files, in seconds.

    Raises:
        OSError: Files cannot be read, because permission is missing or the disk failed.
        LoadingError: A read hangs.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(log.with_name(f".{log.name}.lock")):
        known = _read_log(log)
        keys = [(files.name(place), *stat) for place, stat in enumerate(stats.tolist())]
        unknown = [place for place, key in enumerate(keys) if key not in known]
        if unknown:
            with log.open("a", encoding="ascii") as file:
                for place, found in _decode_all(files, unknown, threads, timeout_s):
                    known[keys[place]] = found
                    file.write(f"\n{json.dumps([*keys[place], found])}")  # The last line may have no end.
                    file.flush()
    sizes, bad, peak = np.zeros((len(files), 2), np.int32), {}, 0
    for place, key in enumerate(keys):
        result = known[key]
        if isinstance(result, str):
            bad[place] = result
        else:
            height, width, value = result
            sizes[place] = height, width
            peak = max(peak, value)
    return Checked(torch.from_numpy(sizes), bad, peak)


def _read_log(log: Path) -> dict[_Key, _Found]:
    known: dict[_Key, _Found] = {}
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with suppress(ValueError):  # The process that wrote this line was killed.
            name, size, changed, found = json.loads(line)
            known[name, size, changed] = found
    return known


def _decode_all(files: FileList, places: Sequence[int], count: int, timeout_s: int) -> Iterator[tuple[int, _Found]]:
    found: dict[int, _Found] = {}
    denied: list[OSError] = []
    threads = Threads(max(1, count))  # At least one thread, so that the progress bar is updated.
    try:
        parts = [places[first : first + _FILES_A_CALL] for first in range(0, len(places), _FILES_A_CALL)]
        calls = [threads.submit(partial(_check, files, part, found, denied)) for part in parts]
        for part, call in zip(parts, with_progress_bar(calls, len(calls), "checking images"), strict=True):
            wait_for(call, timeout_s)
            yield from ((place, found.pop(place)) for place in part if place in found)
    finally:
        threads.close()
    if denied:  # Possibly temporary, so it is not recorded.
        raise OSError(
            f"data.root: {len(denied)} of {len(files):,} files cannot be read; give this user the right to read them, "
            f"or check the disk; the first: {denied[0]}"
        )


def _check(files: FileList, places: Sequence[int], found: dict[int, _Found], denied: list[OSError]) -> None:
    for place in places:
        path = files[place]
        if not path.is_file():  # A folder, a broken link, or a pipe, which would block the reader forever.
            found[place] = "no file"
            continue
        try:
            image = read_rgb(path, _AS_SMALL_AS_CAN_BE)
            found[place] = (*image.size, image.peak)
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno is not None:
                # Errors of the system have a number, those of decoders do not.
                denied.append(error)
            else:
                found[place] = " ".join(str(error).split()) or type(error).__name__
