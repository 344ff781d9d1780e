"""The validation split of datasets that have none: a part of train."""

import torch
from torch import Tensor


def split_off(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose validation images at random, the same share of each class.

    A class with two or more images has at least one in each part; a single image stays in train. The validation part
    has `fraction` of all images, as closely as this allows.

    Args:
        labels: (N,) int64, 0 or more; zeros if the images have no classes.
        fraction: Share of the images that is kept for validation, in (0, 1).
        seed: Seed of the choice.

    Returns:
        Indices of the images of train and of validation, int64. Their order depends on the seed, so that the labels in
        this order differ between two choices.
    """
    counts = labels.bincount()
    taken = _counts_per_class(counts, fraction)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    number_in_class = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class] = number_in_class < taken.repeat_interleave(counts)
    return order[~chosen[order]], order[chosen[order]]


def _counts_per_class(counts: Tensor, fraction: float) -> Tensor:
    """Count the validation images of each class: rounded down, then the largest remainders first."""
    share = counts * fraction
    least, most = (counts > 1).long(), (counts - 1).clamp(min=0)
    taken = share.long().clamp(least, most)
    wanted = round(fraction * int(counts.sum()))
    while taken.sum() < wanted and (taken < most).any():
        taken[(share - taken).where(taken < most, -torch.inf).argmax()] += 1
    while taken.sum() > wanted and (taken > least).any():
        taken[(taken - share).where(taken > least, -torch.inf).argmax()] -= 1
    return taken
