"""The augmentation of training images: its options, and the order in which they are applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from project.engine.loading.augment import cutout, random_crop, random_flip
from project.engine.loading.counter_rng import independent_keys
from project.engine.loading.crop import are_masks
from project.engine.loading.images import Batch
from project.engine.loading.mixup import cutmix, mixup
from project.engine.loading.ranges import check_range

ExtraAugmentation = Callable[[Tensor, Tensor, Tensor], Batch]
"""Maps images (N, C, H, W) uint8, targets (N, ...) and keys (N,) to images and targets."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; a field is an option, such as `--data.augmentation.cutout 8`.

    Args:
        crop_padding: Largest random shift in pixels; 0 disables it.
        horizontal_flip: Mirror each image with probability one half; `alternate` mirrors it in every other epoch,
            beginning with a random half of the images.
        random_resized_crop: Take a random part of each image, of at least this share of its area, in (0, 1]. The usual
            0.08 of ImageNet is for long trainings; null disables it.
        cutout: Side in pixels of a square that is blacked out in each image; 0 disables it.
        mixup: Blend images in pairs, with ratios from Beta(mixup, mixup); 0 disables it.
        cutmix: Paste boxes between images, with areas from Beta(cutmix, cutmix); if mixup is also set, mixup comes
            first; 0 disables it.
        extra: Your own augmentations, called in this order before mixup; each has its own keys.
        padding_mode: Pixels that a random shift adds: black (`constant`), or reflections at the border (`reflect`).
    """

    crop_padding: int = 0
    horizontal_flip: bool | Literal["alternate"] = False
    random_resized_crop: float | None = None
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    extra: Sequence[ExtraAugmentation] = ()
    padding_mode: Literal["constant", "reflect"] = "constant"

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout", "mixup", "cutmix"):
            check_range(f"data.augmentation.{name}", getattr(self, name), 0)
        if self.random_resized_crop is not None and not 0 < self.random_resized_crop <= 1:
            raise ValueError(
                f"data.augmentation.random_resized_crop: got {self.random_resized_crop}; it must be in (0, 1]"
            )

    @property
    def mixes(self) -> bool:
        """Whether images and targets are mixed."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, images: Tensor, targets: Tensor, keys: Tensor) -> Batch:
        """Augment a batch on its device. A random resized crop is applied before, when images are cropped to squares.

        Args:
            images: (N, C, H, W) uint8.
            targets: (N, ...); masks (N, H, W) are shifted and mirrored with their images. Mixed targets are float.
            keys: (N,) int64, on the CPU or on the device of the images; see `sample_keys`.

        Returns:
            Images and targets, of the shapes and dtypes that were given.
        """
        if self.crop_padding:
            images, targets = _with_masks(
                random_crop, images, targets, keys, self.crop_padding, self.padding_mode == "reflect"
            )
        if self.horizontal_flip:
            images, targets = _with_masks(random_flip, images, targets, keys, self.horizontal_flip == "alternate")
        if self.cutout:
            images = cutout(images, keys, self.cutout)
        for number, augment in enumerate(self.extra):
            images, targets = augment(images, targets, independent_keys(keys, number))
        if self.mixup:
            images, targets = mixup(images, targets, keys, self.mixup)
        if self.cutmix:
            images, targets = cutmix(images, targets, keys, self.cutmix)
        return images, targets


def _with_masks(change: Callable[..., Tensor], images: Tensor, targets: Tensor, keys: Tensor, *options: int) -> Batch:
    """Move images and, by the same draws, their masks."""
    if are_masks(targets):
        targets = change(targets.unsqueeze(1), keys, *options).squeeze(1)
    return change(images, keys, *options), targets
