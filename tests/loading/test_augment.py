from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from project.loading import (
    cutmix,
    cutout,
    mixup,
    random_crop,
    random_flip,
    random_resized_crop,
    sample_keys,
)
from project.loading.augment import resized_by_matrix
from project.loading.boxes import center_squares, random_boxes

KEYS = sample_keys(0, 0, range(64))


def images(size: int = 8, channels: int = 3) -> Tensor:
    return torch.randint(
        0, 256, (64, channels, size, size + 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_a_crop_is_torchvisions_for_each_image_its_own() -> None:
    cropped = random_crop(images(), KEYS, 2)
    shifts = set()
    for image, result in zip(images(), cropped, strict=True):
        padded = functional.pad(image, [2])
        windows = {(y, x): functional.crop(padded, y, x, 8, 10) for y in range(5) for x in range(5)}
        (shift,) = [where for where, window in windows.items() if torch.equal(window, result)]
        shifts.add(shift)
    assert len(shifts) > 15


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    flipped = random_flip(images(), KEYS)
    mirrored = [torch.equal(functional.horizontal_flip(a), b) for a, b in zip(images(), flipped, strict=True)]
    assert all(m or torch.equal(a, b) for a, b, m in zip(images(), flipped, mirrored, strict=True))
    assert 20 < sum(mirrored) < 44


@pytest.mark.parametrize("size", [12, 40, 90])
def test_a_resized_crop_is_torchvisions(size: int) -> None:
    pictures = images(48)
    boxes = random_boxes(KEYS, torch.tensor([48, 50]).expand(64, 2), 0.08)
    expected = torch.stack(
        [
            functional.resized_crop(image, *box, [size, size], antialias=True)
            for image, box in zip(pictures, boxes.tolist(), strict=True)
        ]
    )
    assert torch.equal(random_resized_crop(pictures, KEYS, size, 0.08), expected)
    by_matrix = resized_by_matrix(pictures, boxes, size)  # what a GPU does
    assert (by_matrix.int() - expected.int()).abs().max() <= 1


def test_boxes_have_the_areas_and_shapes_that_were_asked_for_and_lie_inside() -> None:
    keys = sample_keys(0, 0, range(3000))
    height, width = 300, 400
    top, left, tall, wide = random_boxes(keys, torch.tensor([height, width]).expand(3000, 2), 0.25).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    share = (tall * wide).float() / (height * width)
    ratio = wide / tall
    assert (share.min() > 0.245, share.max() > 0.9) == (True, True)
    assert (ratio.min() > 0.73, ratio.max() < 1.36) == (True, True)
    assert random_boxes(keys[:1], torch.tensor([[10, 200]]), 0.9).tolist() == [[0, 93, 10, 13]]  # no shape fits
    assert center_squares(torch.tensor([[10, 20], [7, 4]])).tolist() == [[0, 5, 10, 10], [1, 0, 4, 4]]


def test_cutout_blackens_a_square_and_nothing_else() -> None:
    pictures = images().clamp(min=1)
    result = cutout(pictures, KEYS, 4)
    black = result == 0
    assert torch.equal(result[~black], pictures[~black])
    assert (black.all(1) == black.any(1)).all()
    areas = black[:, 0].sum((1, 2))
    assert areas.max() == 16  # less where the square is cut off at the border
    assert areas.min() >= 4


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_labels_are_the_shares_of_the_images(mix: Callable[..., tuple[Tensor, Tensor]]) -> None:
    colours = torch.arange(64, dtype=torch.uint8).mul(4).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    labels = torch.eye(64)
    mixed, shares = mix(colours, labels, KEYS, 1.0)
    assert mixed.dtype == torch.uint8
    assert torch.allclose(shares.sum(1), torch.ones(64))
    expected = shares @ (torch.arange(64).float() * 4)
    assert torch.allclose(mixed.float().mean((1, 2, 3)), expected, atol=0.51)
    own = shares.diag()
    assert (own.min() < 0.5, own.max() > 0.8) == (True, True)


def test_a_batch_of_other_images_changes_nothing() -> None:
    pictures = images(32)
    for change in (
        lambda x, k: random_crop(x, k, 4),
        random_flip,
        lambda x, k: cutout(x, k, 8),
        lambda x, k: random_resized_crop(x, k, 24, 0.3),
    ):
        whole = change(pictures.clone(), KEYS)
        part = torch.tensor([40, 3, 17])
        assert torch.equal(change(pictures[part], KEYS[part]), whole[part])
