"""The list of a split's image files: each file is visited once, and files that are left out are counted."""

import hashlib
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.data.splits import Identity, class_folders, display_name, identity, is_junk, subfolders
from project.engine.loading import FileList, image_suffixes


@dataclass
class LeftOut:
    """Files and folders that are not used.

    Args:
        files: Number of files by reason.
        folders: Number of folders by name; links are counted by path.
        notes: Other remarks.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.notes)

    def __str__(self) -> str:
        """List reasons and names, the most frequent first."""
        files = [f"{reason} {count:,}" for reason, count in self.files.most_common()]
        folders = [f"{name} ({count:,})" if count > 1 else name for name, count in self.folders.most_common()]
        count = self.files.total()
        parts = [f"{count:,} file{'s' if count > 1 else ''}: {', '.join(_few(files))}"] if files else []
        parts += [f"folders {', '.join(_few(folders))}"] if folders else []
        return "; ".join(parts + self.notes)


class Listing(NamedTuple):
    """N image files of a split.

    labels: (N,) int64.
    stats: Size in bytes and modification time in nanoseconds of each file; -1 for a broken link.
    identities: Those of the files that have one.
    digest: 16 hexadecimal digits that change with the files, their sizes, times and labels.
    """

    files: FileList
    labels: Tensor
    stats: Sequence[tuple[int, int]]
    identities: Set[Identity]
    digest: str


class _File(NamedTuple):
    name: str
    stat: tuple[int, int]
    identity: Identity | None


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
    files, labels = list[_File](), list[int]()
    _count_outside(split, classes, left_out)
    label_of = {name: label for label, name in enumerate(class_names)}
    for name in classes:
        if (label := label_of.get(display_name(name))) is None:
            raise ValueError(
                f"data.root: {split} has a class {display_name(name)!r} that is not in train; train has "
                f"{', '.join(class_names)}"
            )
        found = sorted(_walk(root, split / name, visited, left_out))
        if not found:
            raise ValueError(
                f"data.root: no image in {split / name}; add some, or remove the folder"
                + (f" (left out in {split}: {left_out})" if left_out else "")
            )
        files += found
        labels += [label] * len(found)
    names, stats = [file.name for file in files], [file.stat for file in files]
    digest = hashlib.sha256(os.fsencode("\0".join(names)))
    digest.update(np.array([*labels, *chain(*stats)]).tobytes())
    identities = {file.identity for file in files if file.identity}
    return Listing(FileList(root, names), torch.tensor(labels), stats, identities, digest.hexdigest()[:16])


def _walk(root: Path, folder: Path, visited: dict[Identity, str], left_out: LeftOut) -> Iterator[_File]:
    """Yield the image files in a folder and below it; folders are visited before links to folders."""
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        inside = str(place.relative_to(root))
        if place != folder and _is_repeated(root, inside, identity(place.stat()), visited):
            left_out.folders[f"{inside} (a link)"] += 1
            continue
        for entry in _entries(place):
            name = f"{inside}/{entry.name}"
            try:
                found = entry.stat()
            except OSError:  # For example a broken link; the check of the files reports it.
                found = None
            if found is not None and stat.S_ISDIR(found.st_mode):
                if is_junk(entry.name):
                    left_out.folders[entry.name] += 1
                else:
                    (links if entry.is_symlink() else folders).append(Path(entry.path))
                continue
            if (reason := _no_image(entry.name)) is not None:
                left_out.files[reason] += 1
                continue
            key = identity(found) if found and found.st_ino else None  # Some file systems have no inodes.
            if key and _is_repeated(root, name, key, visited):
                left_out.files["second links to a file"] += 1
            else:
                yield _File(name, (found.st_size, found.st_mtime_ns) if found else (-1, -1), key)


def _is_repeated(root: Path, name: str, key: Identity, visited: dict[Identity, str]) -> bool:
    """Return whether a file or folder has been visited under another name.

    Raises:
        ValueError: That name is in another class.
    """
    first = visited.setdefault(key, name)
    is_own_folder = first.count("/") < 2  # the folder of a class or of a split, or the root
    if name.split("/")[:2] != first.split("/")[:2] and not is_own_folder:
        raise ValueError(
            f"data.root: {root / first} and {root / name} are the same file or folder, through a link; an image has "
            "one class, so remove one of them"
        )
    return first != name


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


def _own_folders(root: Path, splits: Iterable[Path]) -> dict[Identity, str]:
    """Return the folders that are visited anyway, by name: a link to one of them would repeat its images."""
    own = [folder for split in splits for folder in (split, *(split / name for name in subfolders(split)))]
    return {identity(folder.stat()): str(folder.relative_to(root)) for folder in (*reversed(own), root)}


def _count_outside(split: Path, classes: Sequence[str], left_out: LeftOut) -> None:
    for entry in os.scandir(split):
        if entry.is_dir():
            if entry.name not in classes:
                left_out.folders[f"{entry.name} (a link)" if not is_junk(entry.name) else entry.name] += 1
        elif not entry.name.startswith("."):
            left_out.files["outside of the classes"] += 1


def _few(texts: Sequence[str], most: int = 8) -> list[str]:
    return [*texts[:most], f"{len(texts) - most} more"] if len(texts) > most else list(texts)
