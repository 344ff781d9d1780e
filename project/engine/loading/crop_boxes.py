"""Crop boxes: top, left, height and width in pixels."""

import math

import torch
from torch import Tensor

from project.engine.loading.counter_rng import integers, uniform

_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


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
