"""A one-line summary of a dataset: its classes, and the images of each split and class."""

from collections.abc import Mapping, Sequence

from torch import Tensor

_MOST_NAMED = 8


def count_line(name: str, class_names: Sequence[str], labels: Mapping[str, Tensor], *, val_from_train: bool) -> str:
    """Return the number of classes, and of images in each split and class.

    Args:
        name: Name of the dataset.
        class_names: Names of the classes, by label.
        labels: Labels of the images in each split, (N,) int64.
        val_from_train: Whether val is a part of train.
    """
    parts = [f"{name}: {len(class_names):,} classes"]
    for split, its_labels in labels.items():
        source = " taken from train" if split == "val" and val_from_train else ""
        parts.append(f"{split} {len(its_labels):,}{source} ({_per_class(class_names, its_labels)})")
    if "test" not in labels:
        parts.append("no test (scored on val)")
    return ", ".join(parts)


def _per_class(class_names: Sequence[str], labels: Tensor) -> str:
    counts = labels.bincount(minlength=len(class_names)).tolist()
    if len(class_names) <= _MOST_NAMED:
        return ", ".join(f"{name} {count:,}" for name, count in zip(class_names, counts, strict=True))
    least, most = min(counts), max(counts)
    return f"{most:,} of each class" if least == most else f"{least:,} to {most:,} of each class"
