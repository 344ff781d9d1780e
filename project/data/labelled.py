"""The base class of datasets for image classification: images with class labels."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from project.engine.loading import ImageDataModule, split_off

_LONGEST = 72  # It fits in 80 columns, after a label.


class LabelledImages(ImageDataModule):
    """Images with labels, int64 (N,), from 0 to `num_classes` - 1. Mixed images have labels (N, num_classes) float.

    A part of train that is used for validation has the same share of each class.
    """

    declared: ClassVar[tuple[str, ...]] = (*ImageDataModule.declared, "class_names")
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @override
    def check_targets(self, split: str, targets: Tensor) -> None:
        least, most = targets.aminmax()
        if least < 0 or most >= self.num_classes:
            raise ValueError(
                f"{split} has labels from {least} to {most}; for the {self.num_classes} class_names of "
                f"{type(self).__name__} they go from 0 to {self.num_classes - 1}"
            )

    @override
    def split_off(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        return split_off(targets, self.val_fraction, self.split_seed)

    @override
    def to_mixable(self, targets: Tensor) -> Tensor:
        return F.one_hot(targets, self.num_classes).float()

    @override
    def profile(self) -> dict[str, Any]:
        """Return the number of classes, and the images of each class in each split; known after `setup`."""
        counts = self._class_counts()
        of_class = {
            f"class {name}": {split: int(count[label]) for split, count in counts.items()}
            for label, name in enumerate(self.class_names)
        }
        return {"classes": self.num_classes, **of_class} if counts else {}

    @override
    def found(self) -> list[str]:
        """Return lines on the images: the classes and splits, and the images of each class; known after `setup`."""
        counts = self._class_counts()
        sizes = ", ".join(f"{split} {len(images):,}" for split, images in self.splits.items())
        by_name = "; ".join(f"{self.origin(split)} {self._by_name(count)}" for split, count in counts.items())
        ranges = ", ".join(f"{self.origin(split)} {_range(count)}" for split, count in counts.items())
        line = f"{self.name}: {self.num_classes:,} classes, {self.size_text}; {sizes}{self.without_test}"
        return [line, by_name if len(by_name) <= _LONGEST else f"per class: {ranges}"]

    def _class_counts(self) -> Mapping[str, Tensor]:
        """Return the number of images of each class (num_classes,) by split."""
        return {split: images.targets.bincount(minlength=self.num_classes) for split, images in self.splits.items()}

    def _by_name(self, counts: Tensor) -> str:
        named = zip(self.class_names, counts.tolist(), strict=True)
        return ", ".join(f"{name} {count:,}" for name, count in named)


def _range(counts: Tensor) -> str:
    least, most = (int(end) for end in counts.aminmax())
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"
