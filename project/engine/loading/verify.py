"""The check of files that were not decoded before: it finds damaged files and the sizes of the others.

The result of each file is appended to a log, one line per file. An interrupted check therefore continues, and if
a file changes, only this file is decoded again.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from project.engine.loading.decode import UNREADABLE, decode_rgb
from project.engine.loading.image_files import FileList
from project.engine.loading.threads import Threads, wait_for
from project.engine.runtime.places import cache_of
from project.engine.runtime.progress import with_progress_bar

_AS_SMALL_AS_CAN_BE = 8
_FILES_A_CALL = 16

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


def check_files(
    files: FileList, stats: Sequence[tuple[int, int]], log_name: str, threads: int, timeout_s: int = 120
) -> Checked:
    """Decode every file once, to find truncated, empty, foreign and absurdly large images.

    Args:
        files: N files.
        stats: Size in bytes and modification time in nanoseconds of each file.
        log_name: Name of the log of the results, in `cache_of(files.root)`. Files in it with the same name, size
            and time are not decoded again. Processes that check files at the same time wait for each other.
        threads: Threads that decode.
        timeout_s: Longest time for a few files, in seconds.

    Raises:
        OSError: Files cannot be read, because permission is missing or the disk failed.
        LoadingError: A read hangs.
    """
    log = cache_of(files.root) / log_name
    keys = [f"{name!r} {size} {changed}" for name, (size, changed) in zip(files.names, stats, strict=True)]
    known = _read_log(log)
    if any(key not in known for key in keys):
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_name(f".{log.name}.lock")), log.open("a", encoding="utf-8") as file:
            known = _read_log(log)  # Another process may have checked the files.
            unknown = [place for place, key in enumerate(keys) if key not in known]
            for place, found in _decode_all(files, unknown, threads, timeout_s):
                known[keys[place]] = json.dumps(found)
                file.write(f"\n{known[keys[place]]}\t{keys[place]}")  # A process that was killed may have cut a line.
                file.flush()
    results: list[_Found] = [json.loads(known[key]) for key in keys]
    bad = {place: result for place, result in enumerate(results) if isinstance(result, str)}
    values = torch.tensor([(0, 0, 0) if isinstance(result, str) else result for result in results], dtype=torch.int32)
    return Checked(values[:, :2], bad, int(values[:, 2].max()))


def _read_log(log: Path) -> dict[str, str]:
    """Return the results in JSON by name, size and time of the files."""
    known = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else ():
        found, _, key = line.partition("\t")
        known[key] = found
    return known


def _decode_all(files: FileList, places: Sequence[int], count: int, timeout_s: int) -> Iterator[tuple[int, _Found]]:
    denied: list[OSError] = []
    threads = Threads(max(1, count))  # At least one thread, so that the progress bar is updated.
    try:
        parts = [places[first : first + _FILES_A_CALL] for first in range(0, len(places), _FILES_A_CALL)]
        calls = [threads.submit(partial(_check_all, files, part)) for part in parts]
        for part, call in zip(parts, with_progress_bar(calls, len(calls), "checking images"), strict=True):
            results = wait_for(call, timeout_s)
            for place, found in zip(part, results, strict=True):
                if isinstance(found, OSError):
                    denied.append(found)
                else:
                    yield place, found
    finally:
        threads.close()
    if denied:
        raise OSError(
            f"data.root: {len(denied)} of {len(files):,} files cannot be read; give this user the right to read them, "
            f"or check the disk; the first: {denied[0]}"
        )


def _check_all(files: FileList, places: Sequence[int]) -> list[_Found | OSError]:
    return [_check(files[place]) for place in places]


def _check(path: Path) -> _Found | OSError:
    """Decode a file; return an error of the system instead of its result, because it may be temporary."""
    if not path.is_file():  # A folder, a broken link, or a pipe, which would block the reader forever.
        return "no file"
    try:
        image = decode_rgb(path.read_bytes(), _AS_SMALL_AS_CAN_BE)
        return *image.size, image.peak
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            return error  # Errors of the system have a number, those of decoders do not.
        return " ".join(str(error).split()) or type(error).__name__
