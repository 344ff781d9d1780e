"""The base class of datasets for image classification: images with class labels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from project.engine.loading import ImageDataModule, Split, split_off

_MOST_NAMED = 8


class LabelledImages(ImageDataModule):
    """Images with labels, int64 (N,), from 0 to `num_classes` - 1. Mixed images have labels (N, num_classes) float.

    A part of train that is used for validation has the same share of each class.
    """

    declared: ClassVar[tuple[str, ...]] = (*ImageDataModule.declared, "class_names")
    tensor_names: ClassVar[tuple[str, str]] = ("images", "labels")
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @override
    def check_targets(self, split: Split, targets: Tensor) -> None:
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
        counts = {split: images.targets.bincount(minlength=self.num_classes) for split, images in self.splits.items()}
        of_class = {
            f"class {name}": {split: int(count[label]) for split, count in counts.items()}
            for label, name in enumerate(self.class_names)
        }
        return {"classes": self.num_classes, **of_class} if counts else {}

    @override
    def found(self) -> list[str]:
        """Return a line with the classes, and the images of each split and class; known after `setup`."""
        parts = [f"{self.name}: {self.num_classes:,} classes"]
        parts += [
            f"{split} {self.size_text(split)} ({_per_class(self.class_names, images.targets)})"
            for split, images in self.splits.items()
        ]
        return [", ".join(parts if self.has_test else [*parts, "no test (scored on val)"])]


def _per_class(class_names: Sequence[str], labels: Tensor) -> str:
    """Return the number of images in each class; the smallest and the largest if there are many classes."""
    counts = labels.bincount(minlength=len(class_names)).tolist()
    if len(class_names) <= _MOST_NAMED:
        return ", ".join(f"{name} {count:,}" for name, count in zip(class_names, counts, strict=True))
    least, most = min(counts), max(counts)
    return f"{most:,} of each class" if least == most else f"{least:,} to {most:,} of each class"
