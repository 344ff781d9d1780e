"""The files of an image folder: each split is listed, and files that cannot be decoded are left out or refused."""

import hashlib
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from project.data.listing import LeftOut, Listing, list_split
from project.data.splits import LAYOUT, class_folders, display_name, find_splits
from project.engine.loading import NO_IMAGE, FileList, Workers, check_files, check_range, remove_outdated
from project.engine.runtime.places import cache_of

_SHOWN = 3


class CheckedSplit(NamedTuple):
    """N image files of a split that can be decoded.

    labels: (N,) int64.
    sizes: (N, 2) int32, height and width of the upright images.
    peak: Largest value in all 16-bit files; 0 without such files.
    digest: 16 hexadecimal digits that change with the files, their sizes, times and labels.
    """

    files: FileList
    labels: torch.Tensor
    sizes: torch.Tensor
    peak: int
    digest: str


class CheckedFolder:
    """The image files in `root/SPLIT/CLASS/`.

    Args:
        root: Folder that contains `train`.
        on_bad_image: Treatment of files that cannot be decoded: `fail` names them; `skip` leaves them out.
        max_bad_percent: Largest percentage of skipped files in a split.

    Attributes:
        folders: Folder of each split.
        class_names: Names of the classes of train, in alphabetical order.
        left_out: Files and folders that are not used.
        skipped: Number of files that cannot be decoded, by split.

    Raises:
        FileNotFoundError: `root/train` does not exist.
        ValueError: train has fewer than two classes, or a folder is ambiguous.
    """

    def __init__(self, root: Path, on_bad_image: Literal["fail", "skip"], max_bad_percent: float) -> None:
        check_range("data.max_bad_percent", max_bad_percent, 0, 100)
        self.root, self.on_bad_image, self.max_bad_percent = root, on_bad_image, max_bad_percent
        self.folders, self._others = find_splits(root)
        self.class_names = tuple(map(display_name, class_folders(self.folders["train"])))
        if len(self.class_names) < 2:
            raise ValueError(f"data.root: {self.folders['train']} has one class; classification needs two; {LAYOUT}")
        self.left_out = LeftOut()
        self.skipped: dict[str, int] = {}

    def check(self, workers: Workers) -> dict[str, CheckedSplit]:
        """List and check the files of all splits; `workers` decode them.

        Raises:
            ValueError: A split lacks images, or has other classes than train, or too many files cannot be decoded.
        """
        listed: dict[str, Listing] = {}
        for split, folder in self.folders.items():
            listed[split] = list_split(self.root, folder, self.class_names, self.folders.values(), self.left_out)
        checked = {split: self._check(split, listing, workers) for split, listing in listed.items()}
        train = listed["train"].identities
        for split, listing in listed.items():
            if split != "train" and (shared := len(listing.identities & train)):
                self.left_out.notes.append(f"{shared:,} files of {split} are also in train, through a link")
        self.left_out.folders.update(f"{name} beside train" for name in self._others)
        return checked

    def _check(self, split: str, listing: Listing, workers: Workers) -> CheckedSplit:
        """Leave out the files of a split that cannot be decoded."""
        files = listing.files
        found = check_files(files, listing.stats, f"{split}-checked.log", workers.count(), workers.timeout_s)
        foreign = {place for place, why in found.bad.items() if why in NO_IMAGE and not files[place].suffix}
        if foreign:
            self.left_out.files["no image without a suffix"] += len(foreign)
        bad = [f"{files[place]}: {why}" for place, why in found.bad.items() if place not in foreign]
        listed = cache_of(self.root) / f"{split}-bad.txt"
        if bad:
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(bad) + "\n", encoding="utf-8", errors="surrogateescape")
            self._refuse(bad, len(files) - len(foreign), f"files in {self.folders[split]}", listed)
            self.skipped[split] = len(bad)
            self.left_out.files["damaged"] += len(bad)
        else:
            remove_outdated(listed.parent, listed.name, listing.digest)
        kept = torch.ones(len(files), dtype=torch.bool)
        kept[list(found.bad)] = False
        counts = listing.labels[kept].bincount(minlength=len(self.class_names))
        if not kept.any() or (split == "train" and not counts.all()):
            empty = self.folders[split] / self.class_names[int(counts.argmin())]
            raise ValueError(f"data.root: no image in {empty} can be decoded; add some, or remove the folder")
        return CheckedSplit(
            FileList(files.root, list(compress(files.names, kept))),
            listing.labels[kept],
            found.sizes[kept],
            found.peak,
            hashlib.sha256(listing.digest.encode() + kept.numpy().tobytes()).hexdigest()[:16],
        )

    def _refuse(self, bad: Sequence[str], count: int, files: str, listed: Path) -> None:
        """Raise ValueError unless these bad files, of `count`, may be skipped and are few."""
        found = f"{len(bad)} of {count:,} {files} cannot be decoded (listed in {listed})"
        shown = "; ".join(bad[:_SHOWN])
        if self.on_bad_image == "fail":
            percent = -(-100 * len(bad) // count)
            raise ValueError(
                f"data.on_bad_image: {found}; repair them, or use skip with --data.max_bad_percent {percent}: {shown}"
            )
        if 100 * len(bad) > self.max_bad_percent * count or len(bad) == count:
            raise ValueError(
                f"data.max_bad_percent: got {self.max_bad_percent}, but {found}; repair them, or allow more: {shown}"
            )
