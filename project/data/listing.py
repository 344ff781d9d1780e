"""The list of a split's image files: each file is visited once, and files that are left out are counted."""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.data.left_out import LeftOut
from project.data.splits import class_folders, display_name, identity, is_junk, subfolders
from project.engine.loading import FileList, image_suffixes

_LINKED_FILE = "second links to a file"
_NOWHERE = (-1, -1)


class Listing(NamedTuple):
    """N image files of a split.

    labels: (N,) int64.
    stats: Size in bytes and modification time in nanoseconds of each file; -1 for a broken link.
    identities: Device and inode of each file that has them, which are equal for all links to a file.
    digest: 16 hexadecimal digits that change with the files, their sizes, times and labels.
    """

    files: FileList
    labels: Tensor
    stats: Sequence[tuple[int, int]]
    identities: Set[tuple[int, int]]
    digest: str


class _Entry(NamedTuple):
    name: str
    is_link: bool
    stat: tuple[int, int]
    identity: tuple[int, int]


def list_split(
    root: Path, split: Path, class_names: Sequence[str], splits: Iterable[Path], left_out: LeftOut
) -> Listing:
    """List the images under `split/CLASS/`, ordered by class and then by name.

    Args:
        root: Folder that contains `split`; names are relative to it.
        split: Folder of the split.
        class_names: The classes of train, by label.
        splits: Folders of all splits.
        left_out: Receives the files and folders that are not listed.

    Raises:
        OSError: A folder cannot be listed.
        ValueError: A class is not in train, has no images, or shares a file with another class.
    """
    classes = class_folders(split)
    visited = _own_folders(root, splits)
    names, labels, stats = list[str](), list[int](), list[tuple[int, int]]()
    place_of: dict[tuple[int, int], int] = {}
    _count_outside(split, classes, left_out)
    label_of = {name: label for label, name in enumerate(class_names)}
    for name in classes:
        if (label := label_of.get(display_name(name))) is None:
            raise ValueError(
                f"data.root: {split} has a class {display_name(name)!r} that is not in train; train has "
                f"{', '.join(class_names)}"
            )
        entries = sorted(_walk(root, split / name, visited, left_out), key=lambda entry: (entry.is_link, entry.name))
        if not entries:
            raise ValueError(
                f"data.root: no image in {split / name}; add some, or remove the folder"
                + (f" (left out in {split}: {left_out})" if left_out else "")
            )
        for entry in entries:
            has_identity = entry.identity[1] > 0  # A broken link has none, nor a file on a file system without inodes.
            first = place_of.setdefault(entry.identity, len(names)) if has_identity else len(names)
            if first < len(names):
                if labels[first] != label:
                    _check_one_class(root, root / entry.name, root / names[first])
                left_out.add(_LINKED_FILE, entry.name)
                continue
            names.append(entry.name)
            labels.append(label)
            stats.append(entry.stat)
    digest = hashlib.sha256(os.fsencode("\0".join(names)) + np.array([*labels, *chain(*stats)]).tobytes()).hexdigest()
    return Listing(FileList(root, names), torch.tensor(labels), stats, place_of.keys(), digest[:16])


def _walk(root: Path, folder: Path, visited: dict[tuple[int, int], Path], left_out: LeftOut) -> Iterator[_Entry]:
    """Yield the image files in a folder and below it; folders are visited before links to folders."""
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        if place != folder:
            first = visited.setdefault(identity(place), place)
            if first != place:
                _check_one_class(root, place, first)
                left_out.folders[f"{place.relative_to(root)} (a link)"] += 1
                continue
        inside = place.relative_to(root)
        for entry in _entries(place):
            try:
                found = entry.stat()
            except OSError:  # For example a broken link; the check of the files reports it.
                found = None
            if found is not None and stat.S_ISDIR(found.st_mode):
                if is_junk(entry.name):
                    left_out.folders[entry.name] += 1
                else:
                    (links if entry.is_symlink() else folders).append(Path(entry.path))
            elif (reason := _no_image(entry.name)) is not None:
                left_out.files[reason] += 1
            else:
                yield _Entry(
                    f"{inside}/{entry.name}",
                    entry.is_symlink(),
                    (found.st_size, found.st_mtime_ns) if found else _NOWHERE,
                    (found.st_dev, found.st_ino) if found else _NOWHERE,
                )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise OSError(
            f"data.root: cannot list {folder} ({error.strerror}); change its permissions, or move it elsewhere"
        ) from error


def _no_image(name: str) -> str | None:
    """Return why the name of a file excludes it, or None. The check of the files opens files without a suffix."""
    if name.startswith("."):
        return "hidden"
    suffix = Path(name).suffix.lower()
    return None if suffix in ("", ".") or suffix in image_suffixes() else suffix


def _own_folders(root: Path, splits: Iterable[Path]) -> dict[tuple[int, int], Path]:
    """Return the folders that are visited anyway: a link to one of them would repeat its images."""
    own = [folder for split in splits for folder in (split, *(split / name for name in subfolders(split)))]
    return {identity(folder): folder for folder in (*reversed(own), root)}


def _count_outside(split: Path, classes: Sequence[str], left_out: LeftOut) -> None:
    for entry in os.scandir(split):
        if entry.is_dir():
            if entry.name not in classes:
                left_out.folders[f"{entry.name} (a link)" if not is_junk(entry.name) else entry.name] += 1
        elif not entry.name.startswith("."):
            left_out.add("outside of the classes", f"{split.name}/{entry.name}")


def _check_one_class(root: Path, second: Path, first: Path) -> None:
    classes = [path.relative_to(root).parts[:2] for path in (first, second)]
    alone = len(first.relative_to(root).parts) <= 2  # the folder of a class or of a split, or the root
    if classes[0] != classes[1] and not alone:
        raise ValueError(
            f"data.root: {first} and {second} are the same file or folder, through a link; an image has one class, so "
            "remove one of them"
        )
