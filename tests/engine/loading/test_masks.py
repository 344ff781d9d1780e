"""Masks, floats and integers as targets: masks follow the geometry of their images, numbers can be mixed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from project.engine.loading import Augmentation, ImageArray, ImageDataModule, ImageFiles, Split, TorchDataset, Workers

COUNT, SIDE = 40, 24


def blobs() -> Tensor:
    """Make masks (N, H, W), 0 or 1, with one rectangle each."""
    generator = torch.Generator().manual_seed(0)
    top, left = torch.randint(0, SIDE // 2, (2, COUNT, 1, 1), generator=generator)
    rows, columns = torch.arange(SIDE).view(1, -1, 1), torch.arange(SIDE).view(1, 1, -1)
    return ((rows >= top) & (rows < top + 9) & (columns >= left) & (columns < left + 11)).byte()


class Shapes(ImageDataModule):
    """Images that equal their masks, or have other targets."""

    name = "shapes"
    native_size, native_channels = SIDE, 1
    native_mean, native_std = (0.2,), (0.4,)

    def __init__(self, targets: Tensor | None = None, **options: Any) -> None:
        super().__init__(batch_size=COUNT, **options)
        self.targets = blobs() if targets is None else targets

    def load(self, split: Split) -> ImageArray | None:
        return ImageArray(blobs().unsqueeze(1) * 255, self.targets) if split == "train" else None


def batch(split: str = "train", targets: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    data = Shapes(targets, **options)
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    (images, its_targets) = next(iter(loader))
    return images, its_targets


@pytest.mark.parametrize("options", [{"crop_padding": 5}, {"horizontal_flip": True}])
def test_a_mask_moves_exactly_with_its_image(options: dict[str, Any]) -> None:
    before, _ = batch()
    images, masks = batch(augmentation=Augmentation(**options))
    assert (masks.dtype, masks.shape) == (torch.uint8, (len(images), SIDE, SIDE))
    assert torch.equal(images[:, 0], masks * 255)
    assert (images != before).flatten(1).any(1).sum() > 10


@pytest.mark.parametrize("options", [{}, {"random_resized_crop": 0.2}])
@pytest.mark.parametrize("size", [12, 24, 40])
def test_a_mask_is_cropped_and_resized_with_its_image(size: int, options: dict[str, Any]) -> None:
    images, masks = batch(image_size=size, augmentation=Augmentation(**options))
    assert (images.shape[2:], masks.shape[1:]) == ((size, size), (size, size))
    assert set(masks.unique().tolist()) == {0, 1}
    inner = (images[:, 0] == 0) | (images[:, 0] == 255)  # The image is interpolated only at the border of its shape.
    assert torch.equal(images[:, 0][inner], (masks * 255)[inner])
    assert inner.float().mean() > 0.7


def test_a_wide_image_and_its_mask_lose_the_same_sides() -> None:
    wide = torch.zeros(3, SIDE, 2 * SIDE, dtype=torch.uint8)
    wide[:, :, SIDE // 2 : 3 * SIDE // 2] = 1

    class Wide(Shapes):
        def load(self, split: Split) -> ImageArray:
            return ImageArray(wide.unsqueeze(1) * 255, wide)

    data = Wide()
    data.setup("fit")
    images, masks = data.fetch("test", torch.arange(3))
    assert torch.equal(images, torch.full((3, 1, SIDE, SIDE), 255, dtype=torch.uint8))
    assert torch.equal(masks, torch.ones(3, SIDE, SIDE, dtype=torch.uint8))


def test_cutout_changes_the_image_and_not_the_mask() -> None:
    images, masks = batch(augmentation=Augmentation(cutout=12))
    assert masks.sum(dtype=torch.int64) == 99 * len(masks)
    assert (images[:, 0] != masks * 255).flatten(1).any(1).sum() > len(masks) / 2


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
@pytest.mark.parametrize("targets", [None, torch.arange(COUNT)])
def test_targets_without_a_mean_cannot_be_mixed(option: str, targets: Tensor | None) -> None:
    expected = rf"data\.augmentation\.{option}: got 0\.5, but the targets are torch\.u?int.*; it must be 0"
    with pytest.raises(ValueError, match=expected):
        batch(targets=targets, augmentation=Augmentation(**{option: 0.5}))


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 3)])
def test_numbers_are_mixed_with_the_weights_of_their_images(shape: tuple[int, ...]) -> None:
    targets = torch.arange(COUNT, dtype=torch.float32).view(-1, *(1 for _ in shape[1:])).expand(shape).clone()
    _, mixed = batch(targets=targets, augmentation=Augmentation(mixup=1.0))
    train, plain = batch(targets=targets)[1], batch(targets=targets, augmentation=Augmentation(mixup=0.0))[1]
    assert mixed.shape == plain.shape
    assert torch.equal(train, plain)
    low, high = torch.minimum(plain, plain.flip(0)), torch.maximum(plain, plain.flip(0))
    assert ((mixed >= low - 1e-4) & (mixed <= high + 1e-4)).all()
    assert (mixed != plain).any()


def test_validation_is_a_random_part_of_any_targets_and_the_digest_changes_with_them() -> None:
    targets = torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(0))
    data, other = Shapes(targets), Shapes(targets + 1)
    for one in (data, other):
        one.setup("fit")
    assert data.sizes() == {"train": 36, "val": 4}
    together = torch.cat([data.splits["train"].targets, data.splits["val"].targets])
    assert torch.equal(together.sort(0).values, targets.sort(0).values)
    assert data.found() == ["shapes: 24x24 pixels; train 36, val (from train) 4, no test (scored on val)"]
    assert data.digest() != other.digest()


def test_a_split_without_images_is_refused() -> None:
    class Empty(Shapes):
        def load(self, split: Split) -> ImageArray | None:
            return ImageArray(blobs().unsqueeze(1)[:0], blobs()[:0]) if split == "test" else super().load(split)

    with pytest.raises(ValueError, match="--data: Empty has no images in test; without it, load returns None"):
        Empty().setup("fit")


def test_masks_of_a_torch_dataset_follow_their_images_too() -> None:
    pairs = list(zip(blobs().unsqueeze(1) * 255, blobs(), strict=True))

    class Lazy(Shapes):
        def load(self, split: Split) -> TorchDataset | None:  # type: ignore[override]
            return TorchDataset(pairs, blobs()) if split == "train" else None  # type: ignore[arg-type]

    augmentation = Augmentation(horizontal_flip=True, crop_padding=3, random_resized_crop=1.0)
    data = Lazy(augmentation=augmentation, workers=Workers(num=0))
    data.setup("fit")
    images, masks = next(iter(data.train_dataloader()))
    inner = (images[:, 0] == 0) | (images[:, 0] == 255)
    assert torch.equal(images[:, 0][inner], (masks * 255)[inner])
    assert inner.float().mean() > 0.7


def test_masks_that_cannot_follow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got masks of \(24, 24\) pixels for images of \(8, 8\)"):
        ImageArray(torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8), blobs())
    with pytest.raises(ValueError, match="ImageFiles takes no masks"):
        ImageFiles([], blobs(), torch.zeros(COUNT, 2))
