"""A folder of images with one subfolder per class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from project.data.checked_folder import CheckedFolder, CheckedSplit
from project.data.labelled import LabelledImages
from project.data.splits import display_name
from project.engine.loading import (
    Crop,
    ImageArray,
    ImageFiles,
    Images,
    Split,
    cached,
    check_range,
    remove_oldest,
    remove_outdated,
)
from project.engine.runtime.places import cache_of

_BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per value of cameras and scanners that write 16-bit files."""


class ImageFolder(LabelledImages):
    """Images under `root/train/CLASS/`, with `root/val/` and `root/test/` if they exist.

    Classes are the subfolders of train in alphabetical order. Without val, a part of train is used for validation;
    without test, the run is scored on val. The names `training`, `valid`, `validation` and `testing` are accepted too;
    case is ignored. Images are the files with the suffix of a format that Pillow can decode, and files without a suffix
    that begin like an image. Each file and folder is visited once, even if several links lead to it.

    Every file is decoded once before the first training, to find damaged ones. The result, and the decoded images if
    they are cached, are in `mlruns/cache/`. They are made again if files change, and may be removed at any time.

    Args:
        root: Folder that contains `train`.
        image_size: Side of the images in pixels; they are resized and cropped to it.
        cache: Whether decoded images are kept on disk; they are mapped into memory. `auto` caches a split if it needs
            at most `cache_limit_mib`. Cached images are the centre squares of the files. With `random_resized_crop`
            they are a seventh larger than `image_size`, and crops are taken from them; if a part of train is used for
            validation, train is also cached without this margin. Without a cache, crops are taken from whole images.
        cache_limit_mib: Largest cache of a split, in MiB.
        cache_total_mib: Largest total size of all caches, in MiB; caches of other image sizes count, too. The oldest
            caches are removed; those of this run are kept.
        bit_depth: Bits of values in 16-bit files, from 8 to 16; the upper eight are kept; null selects the smallest
            of 8, 10, 12, 14 and 16 that holds the values of all splits, or 16 if there are no such files.
        on_bad_image: Treatment of files that cannot be decoded: `fail` names them; `skip` leaves them out.
        max_bad_percent: Largest percentage of skipped files in a split.
        options: See `LabelledImages`.

    Raises:
        FileNotFoundError: `root/train` does not exist.
        ValueError: A class has no images, a split has a class that train does not have, a folder is not a class, or
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
        cache_total_mib: int = 8192,
        bit_depth: int | None = None,
        on_bad_image: Literal["fail", "skip"] = "fail",
        max_bad_percent: float = 1.0,
        **options: Any,
    ) -> None:
        self.root = Path(os.path.expanduser(root))  # noqa: PTH111  # pathlib raises for an unknown user
        self.name = display_name(self.root.resolve().name)
        self._folder = CheckedFolder(self.root, on_bad_image, max_bad_percent)
        self.class_names = self._folder.class_names
        super().__init__(image_size=image_size, **options)
        self.source, self.skipped = str(self.root), self._folder.skipped
        check_range("data.cache_limit_mib", cache_limit_mib, 0)
        check_range("data.cache_total_mib", cache_total_mib, 0)
        check_range("data.bit_depth", 8 if bit_depth is None else bit_depth, 8, 16)
        self.cache, self.cache_limit_mib, self.bit_depth = cache, cache_limit_mib, bit_depth
        self.cache_total_mib = cache_total_mib
        self._caches: list[Path] = []
        self._files: dict[str, CheckedSplit] = {}

    def setup(self, stage: str) -> None:
        """Check and open the splits; one process of a run lists the files, the others receive its list."""
        trainer = self.trainer
        if trainer is not None and trainer.world_size > 1:
            if trainer.is_global_zero:
                super().setup(stage)
            self._files = trainer.strategy.broadcast(self._files)
        super().setup(stage)

    def load(self, split: Split) -> ImageFiles | ImageArray | None:
        """List and check the files of all splits; decode the files of this split if it is cached."""
        if split not in self._folder.folders:
            return None
        if not self._files:
            self._files = self._folder.check(self.workers)
        # Only training cuts random parts; val and test are stored as the model receives them.
        return self._stored(split, self.crop if split == "train" else Crop(self.image_size))

    def as_validated(self, train: Images) -> Images:
        """Return the images of train as the model receives them, without the margin for random crops."""
        return train if self.crop.min_area is None else self._stored("train", Crop(self.image_size))

    def as_identified(self, split: str) -> Images:
        """Return the images of a split; of train its files, because cached ones may have a margin for random crops."""
        if split != "train" or self.crop.min_area is None:
            return super().as_identified(split)
        checked, rows = self._rows_of(split)
        return ImageFiles(checked.files, checked.labels, checked.sizes, self._value_bits(), rows)

    def _stored(self, split: str, crop: Crop) -> ImageFiles | ImageArray:
        """Return the files of a split, or their decoded images if these are cached; decode them if they are not yet."""
        checked, depth = self._files[split], self._value_bits()
        files = ImageFiles(checked.files, checked.labels, checked.sizes, depth)
        side, is_cropped = crop.cached_size, crop.min_area is None
        fits = 3 * side**2 * len(files) <= self.cache_limit_mib * 2**20
        if self.cache == "off" or (self.cache == "auto" and not fits):
            return files
        kind = f"{side}px-{'chw' if is_cropped else 'hwc'}" + (f"-{depth}bit" if checked.peak else "")
        path = cache_of(self.root) / f"{split}-{kind}-{checked.digest}.npy"
        images = cached(files, path, side, self.workers, channels_last=not is_cropped)
        for pattern in (f"{split}-*px-*.npy", f".{split}-*.tmp"):
            remove_outdated(path.parent, pattern, checked.digest)
        self._caches.append(path)
        remove_oldest(path.parent, "*px-*.npy", self.cache_total_mib * 2**20, self._caches)
        if is_cropped:
            return ImageArray(images, files.targets)
        return ImageFiles(images.numpy(), files.targets, torch.tensor([[side, side]]).expand(len(files), 2))

    def sample_names(self, split: str) -> Sequence[str]:
        """Return the paths of a split's images; known after `setup`."""
        checked, rows = self._rows_of(split)
        return [str(checked.files[index]) for index in rows.tolist()]

    def _rows_of(self, split: str) -> tuple[CheckedSplit, torch.Tensor]:
        """Return the files that contain a split's images, and their rows, (N,) int64."""
        is_part = split != "test" and self.val_is_from_train
        checked = self._files["train" if is_part else split]
        rows = self.split_off(checked.labels)[split == "val"] if is_part else torch.arange(len(checked.files))
        return checked, rows

    def original_sizes(self, split: str) -> torch.Tensor:
        """Return height and width of the files of a split, (N, 2) int32; known after `setup`."""
        checked, rows = self._rows_of(split)
        return checked.sizes[rows]

    def decoding(self) -> dict[str, Any]:
        """Return the number of bits of the values in 16-bit files; known after `setup`."""
        return {"bit_depth": self._value_bits()}

    def found(self) -> list[str]:
        """Return lines on the images found, and on the files left out with the reasons."""
        lines = super().found()
        if peak := self._peak():
            lines[-1] += f"; 16-bit files hold {self._value_bits()} bits (largest value {peak:,})"
        left_out = self._folder.left_out
        return [*lines, f"left out: {display_name(str(left_out))}"] if left_out else lines

    def _peak(self) -> int:
        """Return the largest value in all 16-bit files; 0 without such files."""
        return max(checked.peak for checked in self._files.values())

    def _value_bits(self) -> int:
        """Return the number of bits of the values in 16-bit files; the upper eight are kept."""
        peak = self._peak()
        least = next(depth for depth in _BIT_DEPTHS if peak < 2**depth) if peak else _BIT_DEPTHS[-1]
        if self.bit_depth is not None and peak >= 2**self.bit_depth:
            raise ValueError(
                f"data.bit_depth: got {self.bit_depth}, but values go up to {peak:,}; it must be {least} or more"
            )
        return self.bit_depth or least
