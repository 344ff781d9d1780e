"""A folder of images, one subfolder for each class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from project.data.datamodule import ImageDataModule, Split
from project.data.root import data_root
from project.loading import (
    ImageArray,
    ImageFiles,
    cache_path,
    cached,
    check_files,
    files_digest,
    remove_outdated,
)

LAYOUT = "expected ROOT/train/CLASS/*.jpg, and if you have them ROOT/val/CLASS/* and ROOT/test/CLASS/*"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_MARGIN = 256 / 224
"""How much larger than the model's images the cached ones are, of which random parts are taken."""
_SHOWN = 3


class ImageFolder(ImageDataModule):
    """Images under `root/train/CLASS/`, with `root/val/` and `root/test/` where they exist.

    Classes are the subfolders of train in alphabetical order. Without val a part of train is taken;
    without test the run is scored on val.

    Every file is decoded once before the first training, to find damaged ones. What that found, and the
    decoded images where they are cached, stands in `root/.cache/`, or in `mlruns/cache/` where that cannot be
    written. It is made anew when files change, and may be removed at any time.

    Args:
        root: The folder that has `train`.
        image_size: Side in pixels to which images are resized and cropped.
        cache: Whether decoded images are kept on disk and mapped into memory: `auto` when those of a split
            need `cache_limit_mib` at most. Cached images are the squares in the middle of the files, a seventh
            larger than `image_size` where `random_resized_crop` takes parts of them; without, of whole images.
        cache_limit_mib: Largest cache of a split, in MiB.
        on_bad_image: What to do about files that cannot be decoded: `fail` names them; `skip` leaves them out.
        max_bad_percent: Most files of a split that are skipped, in percent.
        options: See `ImageDataModule`.

    Raises:
        FileNotFoundError: There is no `root/train`.
        ValueError: A class has no images, a split has a class that train has not, a folder is no class, or
            files cannot be decoded.
    """

    native_size, native_channels = 64, 3
    native_mean, native_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

    def __init__(
        self,
        root: str = "data",
        image_size: int = 64,
        cache: Literal["auto", "on", "off"] = "auto",
        cache_limit_mib: int = 2048,
        on_bad_image: Literal["fail", "skip"] = "fail",
        max_bad_percent: float = 1.0,
        **options: Any,
    ) -> None:
        self.root = data_root(root)
        self.name = self.root.resolve().name
        if not (self.root / "train").is_dir():
            raise FileNotFoundError(f"data.root: there is no folder {self.root / 'train'}; {LAYOUT}")
        self.class_names = tuple(_class_folders(self.root / "train"))
        if len(self.class_names) < 2:
            raise ValueError(f"data.root: {self.root / 'train'} has one class; to tell apart it takes two; {LAYOUT}")
        super().__init__(image_size=image_size, **options)
        if not 0 <= max_bad_percent <= 100:
            raise ValueError(f"data.max_bad_percent: got {max_bad_percent}; it must be in [0, 100]")
        if cache_limit_mib < 0:
            raise ValueError(f"data.cache_limit_mib: got {cache_limit_mib}; it must be 0 or more")
        self.cache, self.cache_limit_mib = cache, cache_limit_mib
        self.on_bad_image, self.max_bad_percent = on_bad_image, max_bad_percent

    def load(self, split: Split) -> ImageFiles | ImageArray | None:
        """List and check the files of a split; decode them where they are cached."""
        if not (self.root / split).is_dir():
            return None
        paths, labels = self._listed(split)
        digest = files_digest(self.root, paths)
        report = cache_path(self.root, f"{split}-check-{digest}.json")
        sizes, bad = check_files(paths, report, self.threads_per_device(), self.worker_timeout_s)
        remove_outdated(report.parent, f"{split}-check-*.json", digest)
        if bad:
            self._decide(split, [f"{paths[place]}: {why}" for place, why in bad.items()], len(paths), report)
            self.skipped[split] = len(bad)
            good = torch.tensor([place for place in range(len(paths)) if place not in bad])
            paths, labels, sizes = [paths[place] for place in good.tolist()], labels[good], sizes[good]
            digest = files_digest(self.root, paths)  # of those that a cache has
        else:
            remove_outdated(report.parent, f"{split}-bad.txt", digest)
        files = ImageFiles(paths, labels, sizes, self.image_size, self.random_resized_crop)
        side = round(_MARGIN * self.image_size) if self.random_resized_crop else self.image_size
        fits = 3 * side**2 * len(paths) <= self.cache_limit_mib * 2**20
        if self.cache == "off" or (self.cache == "auto" and not fits):
            return files
        crops = self.random_resized_crop is not None
        kept = cache_path(self.root, f"{split}-{side}px-{'hwc' if crops else 'chw'}-{digest}.npy")
        whole = ImageFiles(paths, labels, sizes, side)
        images = cached(whole, kept, self.threads_per_device(), self.worker_timeout_s, channels_last=crops)
        for pattern in (f"{split}-*px-*.npy", f".{split}-*.tmp"):
            remove_outdated(kept.parent, pattern, digest)
        if not crops:
            return ImageArray(images, labels)
        pixels = list(images.numpy())
        return ImageFiles(pixels, labels, torch.full_like(sizes, side), self.image_size, self.random_resized_crop)

    def _listed(self, split: Split) -> tuple[list[Path], Tensor]:
        paths: list[Path] = []
        labels: list[int] = []
        for name in _class_folders(self.root / split):
            if name not in self.class_names:
                raise ValueError(
                    f"data.root: {self.root / split} has a class {name!r} that train has not; train has "
                    f"{', '.join(self.class_names)}"
                )
            files = sorted(_image_files(self.root / split / name))
            if not files:
                raise ValueError(
                    f"data.root: no image in {self.root / split / name}; images end in {', '.join(sorted(SUFFIXES))}"
                )
            paths += files
            labels += [self.class_names.index(name)] * len(files)
        return paths, torch.tensor(labels)

    def _decide(self, split: Split, bad: list[str], count: int, report: Path) -> None:
        listed = report.with_name(f"{split}-bad.txt")
        listed.write_text("\n".join(bad) + "\n", encoding="utf-8", errors="surrogateescape")
        found = f"{len(bad)} of {count:,} files in {self.root / split} cannot be decoded, all in {listed}"
        shown = "; ".join(bad[:_SHOWN])
        if self.on_bad_image == "fail":
            raise ValueError(
                f"data.on_bad_image: {found}; mend them, or use skip with --data.max_bad_percent "
                f"{-(-100 * len(bad) // count)}: {shown}"
            )
        if 100 * len(bad) > self.max_bad_percent * count or len(bad) == count:
            raise ValueError(
                f"data.max_bad_percent: got {self.max_bad_percent}, but {found}; mend them, or allow more: {shown}"
            )


def _image_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]  # walk goes into these
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path


def _class_folders(split: Path) -> list[str]:
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir())
    for name in names:
        if name.startswith((".", "__")):
            raise ValueError(f"data.root: {split / name} is no class; remove it (rm -r '{split / name}')")
    if not names:
        raise ValueError(f"data.root: {split} has no class folders; {LAYOUT}")
    return names
