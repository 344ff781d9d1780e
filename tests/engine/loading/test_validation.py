"""The selection of the validation images from train: the number per class, and the seed."""

import pytest
import torch

from project.engine.loading.validation import split_off


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((340, 120, 40), 0.1, [34, 12, 4]),
        ((340, 120, 40), 0.01, [3, 1, 1]),
        ((2, 2, 1), 0.5, [1, 1, 0]),
        ((2, 3, 100), 0.95, [1, 2, 97]),
        ((5,) * 7, 0.1, [1] * 7),  # At least one of each class, although a tenth would be fewer.
        ((15, 15, 15, 15), 0.1, [2, 2, 1, 1]),
        ((0, 10, 10), 0.2, [0, 2, 2]),
    ],
)
def test_each_class_has_its_share_in_validation(counts: tuple[int, ...], fraction: float, expected: list[int]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    train, val = split_off(labels, fraction, seed=0)
    assert labels[val].bincount(minlength=len(counts)).tolist() == expected
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    assert torch.equal(val, split_off(labels, fraction, seed=0)[1])


def test_another_seed_selects_other_images_and_changes_the_labels_of_train() -> None:
    labels = torch.arange(3).repeat_interleave(100)  # Sorted by class, as in a folder.
    parts = [split_off(labels, 0.1, seed) for seed in range(5)]
    assert len({tuple(sorted(val.tolist())) for _, val in parts}) == 5
    assert len({tuple(labels[train].tolist()) for train, _ in parts}) == 5
