"""Augmentation of whole batches on their device, with a draw of its own for each image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image by up to `padding` pixels in both directions; what comes in is black.

    Args:
        images: (N, C, H, W), any dtype.
        padding: Largest shift in pixels.
        generator: Source of the draws, on the images' device.

    Returns:
        (N, C, H, W), the dtype of `images`.
    """
    n, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    dy, dx = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=images.device)
    return windows[torch.arange(n, device=images.device), :, dy, dx]


def random_flip(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: (N, C, H, W), any dtype.
        generator: Source of the draws, on the images' device.

    Returns:
        (N, C, H, W), the dtype of `images`.
    """
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)
