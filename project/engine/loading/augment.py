"""Augmentation of whole batches on their device, with random draws per image.

The draws are computed from the images' keys, on the device of the keys, and are the same on every device. Each function
uses its own range of a key's draws, so that two functions never use the same number.

An augmentation of your own is an entry of `Augmentation.extra`, in a file of your own.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from project.engine.loading.counter_rng import alternating, integers, uniform

_SHIFT, _FLIP, _HOLE = 100, 102, 103  # random_boxes has 0 to 21


def random_crop(images: Tensor, keys: Tensor, padding: int, reflect: bool = False) -> Tensor:
    """Shift each image by up to `padding` pixels in both directions.

    Args:
        images: (N, C, H, W), any dtype.
        keys: (N,) int64, on the CPU or on the device of the images; see `sample_keys`.
        padding: Largest shift in pixels.
        reflect: Whether new pixels are reflections at the border, for which `padding` must be less than height and
            width; otherwise, they are black.

    Returns:
        (N, C, H, W), the dtype of `images`.
    """
    n, _, height, width = images.shape
    padded = _reflected(_reflected(images, padding, 2), padding, 3) if reflect else F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    dy, dx = integers(keys, _SHIFT, 2 * padding + 1, 2).unbind(1)
    if images.device.type == "cpu":  # numpy gathers in two thirds of torch's time.
        return torch.from_numpy(windows.numpy()[np.arange(n), :, dy.numpy(), dx.numpy()])
    return windows[torch.arange(n, device=images.device), :, _to(dy, images), _to(dx, images)]


def _reflected(images: Tensor, padding: int, dim: int) -> Tensor:
    # On GPUs, torch pads only floats by reflection.
    length = images.shape[dim]
    before, after = images.narrow(dim, 1, padding), images.narrow(dim, length - 1 - padding, padding)
    return torch.cat([before.flip(dim), images, after.flip(dim)], dim)


def random_flip(images: Tensor, keys: Tensor, alternate: bool = False) -> Tensor:
    """Mirror each image left to right with probability one half; images on the CPU are changed in place.

    Args:
        images: (N, C, H, W), any dtype.
        keys: (N,) int64, on the CPU or on the device of the images.
        alternate: Mirror an image in every other epoch, beginning with a random half of the images.

    Returns:
        (N, C, H, W), the dtype of `images`.
    """
    is_chosen = alternating(keys) if alternate else uniform(keys, _FLIP) < 0.5
    if images.device.type != "cpu":  # Finding the places of the chosen images would make a GPU wait.
        return torch.where(_to(is_chosen, images).view(-1, 1, 1, 1), images.flip(3), images)
    chosen = np.flatnonzero(is_chosen.numpy())
    rows, width = (images, 3) if images.is_contiguous() else (images.permute(0, 2, 3, 1), 2)  # in the order of memory
    pixels = rows.numpy()
    # numpy gathers and scatters images ten times as fast as torch; torch is faster at mirroring them.
    pixels[chosen] = torch.from_numpy(pixels[chosen]).flip(width).numpy()
    return images


def cutout(images: Tensor, keys: Tensor, side: int) -> Tensor:
    """Black out a square in each image; its centre is anywhere, so the border may cut it off.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, arXiv:1708.04552.

    Args:
        images: (N, C, H, W), any dtype.
        keys: (N,) int64, on the CPU or on the device of the images.
        side: Side of the square in pixels.

    Returns:
        (N, C, H, W), the dtype of `images`.
    """
    rows, columns = (
        _to(_covered(integers(keys, _HOLE + axis, images.shape[2 + axis]), side, images.shape[2 + axis]), images)
        for axis in (0, 1)
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)


def _covered(centre: Tensor, side: int, length: int) -> Tensor:
    start = (centre - side // 2).unsqueeze(1)
    places = torch.arange(length, device=centre.device)
    return (places >= start) & (places < start + side)


def _to(draws: Tensor, images: Tensor) -> Tensor:
    return draws.to(images.device, non_blocking=True)
