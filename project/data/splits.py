"""The folders of splits and of classes in an image folder."""

import os
from pathlib import Path
from unicodedata import category

Identity = tuple[int, int]
"""Device and inode."""

LAYOUT = "expected ROOT/train/CLASS/*.jpg, and if you have them ROOT/val/CLASS/* and ROOT/test/CLASS/*"

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_JUNK = {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__", "lost+found"}
_JUNK |= {"system volume information"}
_CONTROLS = {"Cc", "Zl", "Zp"}  # Unicode's categories of control characters and line breaks.


def is_junk(name: str) -> bool:
    """Return whether a folder is hidden or made by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK


def display_name(name: str) -> str:
    r"""Return the name of a file or folder as one line of text, the same in any locale.

    Names are decoded as UTF-8, whatever the locale. Bytes that are not UTF-8, control characters and line breaks
    become escapes such as `\xff` and `\n`.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(ascii(letter)[1:-1] if category(letter) in _CONTROLS else letter for letter in text)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in alphabetical order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def find_splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folder of each split, found by its usual names in any case, and the names of other folders.

    Raises:
        FileNotFoundError: The train folder does not exist.
        ValueError: Two folders are the same split, or another folder has classes of train.
    """
    names = [name for name in subfolders(root) if not is_junk(name)] if root.is_dir() else []
    found: dict[str, Path] = {}
    for name in names:
        split = _NAMES.get(name.lower())
        if split in found:
            raise ValueError(f"data.root: {found[split]} and {root / name} are both {split}; keep one of them")
        if split:
            found[split] = root / name
    if "train" not in found:
        raise FileNotFoundError(f"data.root: there is no folder {root / 'train'}; give --data.root ROOT; {LAYOUT}")
    others = [name for name in names if name.lower() not in _NAMES]
    classes = set(class_folders(found["train"]))
    for name in others:
        if shared := classes.intersection(subfolders(root / name)):
            raise ValueError(
                f"data.root: {root / name} has classes of train ({min(shared)}), but it is not a split; rename it to "
                "val or test, or move it elsewhere"
            )
    return found, others


def class_folders(split: Path) -> list[str]:
    """Return the names of the classes in a split's folder, in alphabetical order.

    Raises:
        ValueError: The folder has no classes, or a link makes two of them the same folder.
    """
    above = {identity(split.stat()), identity(split.parent.stat())}
    by_identity: dict[Identity, str] = {}
    for name in subfolders(split):
        here = identity((split / name).stat())
        if is_junk(name) or here in above:
            continue
        if here in by_identity:
            raise ValueError(
                f"data.root: {split / name} and {split / by_identity[here]} are the same folder, through a link; "
                "remove one"
            )
        by_identity[here] = name
    if not by_identity:
        raise ValueError(f"data.root: {split} has no class folders; {LAYOUT}")
    return sorted(by_identity.values())


def identity(found: os.stat_result) -> Identity:
    """Return what is equal for all links to a file or folder."""
    return found.st_dev, found.st_ino
