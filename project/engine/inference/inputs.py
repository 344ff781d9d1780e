"""The files that the arguments of a command name: files, folders, patterns, CSV files, and standard input."""

import csv
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

PATH_HELP = "image files, folders, patterns such as 'DIR/*.jpg', CSV files with a column path, or - for standard input"
_COLUMN = "path"


def named_files(arguments: Sequence[str]) -> list[Path]:
    """Return the files that arguments name, in their order; those of a folder by name, without hidden ones.

    As in training, the images of a folder are the files with the suffix of an image, and files without a suffix that
    begin like an image. Links to folders are followed; each folder is visited once.

    Files that a list names need not exist; arguments must.

    Raises:
        OSError: An argument names no file, or a folder cannot be listed.
        ValueError: No arguments are given, or a CSV file has no column `path`.
    """
    if not arguments:
        raise ValueError(f"PATH: got nothing; give {PATH_HELP}")
    return [path for argument in arguments for path in _files_of(argument)]


def _files_of(argument: str) -> list[Path]:
    path = Path(argument)
    if argument == "-":
        found = [Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip()]
        missing = "standard input has no line"
    elif path.is_dir():
        found, missing = sorted(_images_under(path)), f"{path} contains no image"
    elif _is_file(path):
        found, missing = (_of_csv(path), f"{path} has no row") if path.suffix.lower() == ".csv" else ([path], "")
    else:
        # Unlike Path.glob, this takes absolute patterns.
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True)) if _is_file(Path(name))]  # noqa: PTH207
        missing = f"{argument} {'is neither a file nor a folder' if path.exists() else 'does not exist'}"
    if not found:
        raise FileNotFoundError(f"PATH: {missing}; give {PATH_HELP}")
    return found


def _is_file(path: Path) -> bool:
    """Return whether a path is a file, or a link to nothing, which becomes a row with an error."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _images_under(folder: Path) -> Iterator[Path]:
    # It imports torch, which `--help` does not need.
    from project.engine.loading import begins_like_image, image_suffixes

    visited = set[tuple[int, int]]()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        found = Path(place).stat()
        if (identity := (found.st_dev, found.st_ino)) in visited:  # A link leads to it.
            folders.clear()
            continue
        visited.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(place, name) for name in files if not name.startswith("."))
        for path in filter(_is_file, paths):
            if path.suffix.lower() in image_suffixes() or (path.suffix in ("", ".") and begins_like_image(path)):
                yield path


def _raise(error: OSError) -> NoReturn:
    raise error


def _of_csv(table: Path) -> list[Path]:
    """Return the files of a table; relative paths start from the current folder, or else from that of the table."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if _COLUMN not in (names := reader.fieldnames or []):
                raise ValueError(f"{table}: expected a column {_COLUMN}; it has {', '.join(names) or 'none'}")
            paths = [Path(row[_COLUMN]) for row in reader if row[_COLUMN]]
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not a text file: {error}") from error
    return [path if path.exists() else table.parent / path for path in paths]
