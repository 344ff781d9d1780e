from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from project.engine.loading import Augmentation, Crop, uniform
from project.engine.loading.augment import cutout, random_crop, random_flip
from project.engine.loading.counter_rng import sample_keys
from project.engine.loading.crop import random_boxes
from project.engine.loading.mixup import cutmix, mixup
from project.engine.loading.resize import resized_by_matrix
from project.engine.loading.square import center_squares

KEYS = sample_keys(0, 0, torch.arange(64))


def images(size: int = 8, channels: int = 3) -> Tensor:
    return torch.randint(
        0, 256, (64, channels, size, size + 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_each_image_has_its_own_crop_equal_to_torchvisions(mode: str) -> None:
    cropped = random_crop(images(), KEYS, 2, mode == "reflect")
    shifts = set()
    for image, result in zip(images(), cropped, strict=True):
        padded = functional.pad(image, [2], padding_mode=mode)
        windows = {(y, x): functional.crop(padded, y, x, 8, 10) for y in range(5) for x in range(5)}
        (shift,) = [where for where, window in windows.items() if torch.equal(window, result)]
        shifts.add(shift)
    assert len(shifts) > 15


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    flipped = random_flip(images(), KEYS)
    mirrored = [torch.equal(functional.horizontal_flip(a), b) for a, b in zip(images(), flipped, strict=True)]
    assert all(m or torch.equal(a, b) for a, b, m in zip(images(), flipped, mirrored, strict=True))
    assert 20 < sum(mirrored) < 44


def test_alternate_flips_mirror_each_image_in_one_of_two_epochs() -> None:
    augment = Augmentation(horizontal_flip="alternate")
    mirrored = []
    for epoch in range(3):
        keys = sample_keys(1, epoch, torch.arange(64))
        flipped, _ = augment(images(), KEYS, keys)
        mirrored.append((flipped == images().flip(3)).flatten(1).all(1))
        assert torch.equal(flipped[~mirrored[-1]], images()[~mirrored[-1]])
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[1], ~mirrored[2])
    assert 20 < mirrored[0].sum() < 44


@pytest.mark.parametrize(("size", "channels"), [(12, 3), (40, 3), (90, 3), (40, 1)])
def test_a_resized_crop_equals_torchvisions(size: int, channels: int) -> None:
    pictures = images(48)[:, :channels]
    boxes = random_boxes(KEYS, torch.tensor([48, 50]).expand(64, 2), 0.08)
    expected = torch.stack(
        [
            functional.resized_crop(image, *box, [size, size], antialias=True)
            for image, box in zip(pictures, boxes.tolist(), strict=True)
        ]
    )
    assert torch.equal(Crop(size, 0.08)(pictures, KEYS, KEYS)[0], expected)
    by_matrix = resized_by_matrix(pictures, boxes, size)  # A GPU uses this path.
    assert (by_matrix.int() - expected.int()).abs().max() <= 1


def test_crop_boxes_have_the_requested_areas_and_shapes_and_are_inside_the_image() -> None:
    keys = sample_keys(0, 0, torch.arange(3000))
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
    assert random_boxes(keys[:1], torch.tensor([[10, 200]]), 0.9).tolist() == [[0, 93, 10, 13]]  # No shape fits.
    assert center_squares(torch.tensor([[10, 20], [7, 4]])).tolist() == [[0, 5, 10, 10], [1, 0, 4, 4]]


def test_cutout_erases_a_square_as_torchvision_does() -> None:
    pictures = images().clamp(min=1)
    sizes = set()
    for image, result in zip(pictures, cutout(pictures, KEYS, 4), strict=True):
        left, top, right, bottom = bounds(result == 0)
        assert torch.equal(result, functional.erase(image, top, left, bottom - top, right - left, torch.tensor(0)))
        sizes.add((bottom - top, right - left))
    assert {side for size in sizes for side in size} == {2, 3, 4}  # The border cuts squares.
    assert (4, 4) in sizes


def bounds(chosen: Tensor) -> tuple[int, int, int, int]:
    """Return the bounding box of a mask (C, H, W), bool, in the order of torchvision's CutMix: x1, y1, x2, y2."""
    places = chosen.any(0).nonzero()
    if not len(places):
        return 0, 0, 0, 0
    (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    return left, top, right, bottom


@pytest.mark.parametrize(("mix", "torchvisions"), [(mixup, v2.MixUp()), (cutmix, v2.CutMix())])
def test_mixed_images_and_labels_equal_torchvisions(
    mix: Callable[..., tuple[Tensor, Tensor]], torchvisions: v2.MixUp | v2.CutMix
) -> None:
    pictures, labels = images(16) // 2, torch.eye(64)
    pictures[32:] += 128  # An image and its partner have no equal pixel.
    mixed, shares = mix(pictures, labels, KEYS, 1.0)
    assert mixed.dtype == torch.uint8
    for place, (image, share) in enumerate(zip(mixed, shares, strict=True)):
        pair = [place, 63 - place]
        x1, y1, x2, y2 = box = bounds(image != pictures[place])
        parameters = {
            "labels": labels[pair], "batch_size": 2, "lam": float(share[place]),
            "box": box, "lam_adjusted": 1 - (x2 - x1) * (y2 - y1) / image[0].numel(),
        }  # fmt: skip
        assert (torchvisions.transform(pictures[pair].float(), parameters)[0].round() - image).abs().max() <= 1
        assert torch.allclose(torchvisions.transform(parameters["labels"], parameters)[0], share)
    own = shares.diag()
    assert (own.min() < 0.5, own.max() > 0.8) == (True, True)


def test_a_batch_of_other_images_changes_nothing() -> None:
    pictures = images(32)
    for change in (
        lambda x, k: random_crop(x, k, 4),
        random_flip,
        lambda x, k: cutout(x, k, 8),
        lambda x, k: Crop(24, 0.3)(x, k, k)[0],
    ):
        whole = change(pictures.clone(), KEYS)
        part = torch.tensor([40, 3, 17])
        assert torch.equal(change(pictures[part], KEYS[part]), whole[part])


def test_extra_augmentations_run_in_their_order_with_their_own_random_numbers() -> None:
    draws = []

    def add_one(images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        draws.append(uniform(keys, 0))
        return images + 1, targets

    def double(images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        draws.append(uniform(keys, 0))
        return images * 2, -targets

    images, targets = Augmentation(extra=[add_one, double])(torch.ones(64, 1, 4, 4), torch.arange(64), KEYS)
    assert images.unique().tolist() == [4]
    assert torch.equal(targets, -torch.arange(64))
    assert not (draws[0] == draws[1]).any()
    assert not (draws[0] == uniform(KEYS, 0)).any()
