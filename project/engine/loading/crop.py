"""The crop of each image, the same for all sources of images.

Files are cropped by the threads that decode them, from the boxes of `Crop.boxes`. Images in memory are cropped as a
whole batch, on the device, by `Crop.__call__`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from project.engine.loading.counter_rng import integers, uniform
from project.engine.loading.resize import nearest_parts, resized_parts
from project.engine.loading.square import center_squares

_MARGIN = 256 / 224
"""Cached images are this much larger than random crops of them."""
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def are_masks(targets: Tensor) -> bool:
    """Return whether targets are masks (N, H, W), which are moved with their images."""
    return targets.ndim == 3


@dataclass(frozen=True)
class Crop:
    """A crop, which cuts a part out of each image and resizes it to a square, with antialiasing.

    The part is random for images with keys if `min_area` is given; otherwise, it is the largest square in the middle.

    Args:
        size: Side of the square in pixels.
        min_area: Smallest share of the image's area that a random part covers, in (0, 1]; None disables random parts.
    """

    size: int
    min_area: float | None = None

    @property
    def cached_size(self) -> int:
        """Side of the squares to store if these parts will be cut from them."""
        return self.size if self.min_area is None else round(_MARGIN * self.size)

    def boxes(self, sizes: Tensor, keys: Tensor | None) -> Tensor:
        """Choose the part of each image.

        Args:
            sizes: (N, 2) int64, height and width.
            keys: (N,) int64, on any device; None for no randomness.

        Returns:
            (N, 4) int64, on the device of the keys if the parts are random: top, left, height, width.
        """
        if keys is None or self.min_area is None:
            return center_squares(sizes)
        return random_boxes(keys, sizes, self.min_area)

    def __call__(self, images: Tensor, targets: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """Crop a batch of images of one size on its device; masks are cropped in the same way, by nearest neighbour.

        Args:
            images: (N, C, H, W) uint8.
            targets: (N, ...); masks are (N, H, W).
            keys: (N,) int64, on the CPU or on the device of the images; None for no randomness.

        Returns:
            Images (N, C, size, size) uint8, and targets.
        """
        is_random = keys is not None and self.min_area is not None
        if not is_random and images.shape[2:] == (self.size, self.size):
            return images, targets
        boxes = self.boxes(torch.tensor(images.shape[2:]).expand(len(images), 2), keys)
        if are_masks(targets):
            targets = nearest_parts(targets, boxes, self.size)
        if is_random:
            return resized_parts(images, boxes, self.size), targets
        top, left, height, width = boxes[0].tolist()
        part = images[:, :, top : top + height, left : left + width]
        from torchvision.transforms.v2.functional import resize  # torchvision takes seconds to import.

        resized: Tensor = resize(part, [self.size, self.size], antialias=True)
        return resized, targets


def random_boxes(keys: Tensor, sizes: Tensor, min_area: float) -> Tensor:
    """Draw a box of random area, shape and place for each image, like torchvision's RandomResizedCrop.

    Source: Szegedy et al., Going Deeper with Convolutions, CVPR 2015.

    Args:
        keys: (N,) int64, see `sample_keys`.
        sizes: (N, 2) int64, height and width.
        min_area: Smallest share of the image's area, in (0, 1]; the largest is 1.

    Returns:
        (N, 4) int64, on the device of `keys`: top, left, height, width.
    """
    sizes = sizes.to(keys.device)
    shapes = _shapes(sizes, min_area, uniform(keys, 0, 2 * _ATTEMPTS).view(-1, _ATTEMPTS, 2).double())
    fits = ((shapes >= 1) & (shapes <= sizes.unsqueeze(1))).all(2)
    first = shapes[torch.arange(len(keys), device=keys.device), fits.int().argmax(1)]
    found = fits.any(1, keepdim=True)
    shape = torch.where(found, first, _clamped(sizes))
    free = sizes - shape
    place = torch.where(found, integers(keys, 2 * _ATTEMPTS, free + 1, 2), free // 2)
    return torch.cat([place, shape], 1)


def _shapes(sizes: Tensor, min_area: float, drawn: Tensor) -> Tensor:
    # (N, attempts, 2), from numbers of the same shape: heights and widths. Some of them exceed the image.
    area = sizes.prod(1, keepdim=True) * (min_area + (1 - min_area) * drawn[..., 0])
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratio = (low + (high - low) * drawn[..., 1]).exp()
    return torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 2).round().long()


def _clamped(sizes: Tensor) -> Tensor:
    # The whole image, or the largest part of it with an allowed aspect ratio.
    height, width = sizes.unbind(1)
    tall, wide = (height * _RATIO[1]).round().long(), (width / _RATIO[0]).round().long()
    return torch.stack([torch.minimum(height, wide), torch.minimum(width, tall)], 1)
