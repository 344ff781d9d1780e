"""Mixup and CutMix: each image and its label are mixed with another image of the batch and its label.

Image i is mixed with image N-1-i of the shuffled batch. The mixing ratio and the box are drawn from the image's key.
The image in the middle of an odd batch is not changed.
"""

import torch
from scipy.special import betaincinv
from torch import Tensor

from project.engine.loading.counter_rng import integers, uniform

_MIXUP, _CUTMIX = 110, 111


def mixup(images: Tensor, labels: Tensor, keys: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image with another one.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N, classes) float, probabilities.
        keys: (N,) int64, on the CPU.
        alpha: An image's share is drawn from Beta(alpha, alpha); above 0.

    Returns:
        Images and labels as they came.
    """
    share = _beta(keys, _MIXUP, alpha).to(images.device).view(-1, 1, 1, 1)
    mixed = (share * images + (1 - share) * images.flip(0)).round().to(images.dtype)
    return mixed, _mixed_labels(labels, share.view(-1, 1))


def cutmix(images: Tensor, labels: Tensor, keys: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Replace a box of each image by the same box of another one.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N, classes) float, probabilities.
        keys: (N,) int64, on the CPU.
        alpha: The share of the image that stays is drawn from Beta(alpha, alpha); above 0.

    Returns:
        Images and labels as they came.
    """
    side = (1 - _beta(keys, _CUTMIX, alpha)).sqrt()
    inside = [
        _within(integers(keys, _CUTMIX + 1 + axis, length), side * length, length)
        for axis, length in enumerate(images.shape[2:])
    ]
    box = (inside[0][:, :, None] & inside[1][:, None, :]).to(images.device)
    mixed = torch.where(box.unsqueeze(1), images.flip(0), images)
    return mixed, _mixed_labels(labels, 1 - box.float().mean((1, 2)).view(-1, 1))


def _mixed_labels(labels: Tensor, share: Tensor) -> Tensor:
    return share * labels + (1 - share) * labels.flip(0)


def _within(centre: Tensor, side: Tensor, length: int) -> Tensor:
    return (torch.arange(length) - centre.unsqueeze(1)).abs() < side.unsqueeze(1) / 2


def _beta(keys: Tensor, draw: int, alpha: float) -> Tensor:
    return torch.from_numpy(betaincinv(alpha, alpha, uniform(keys, draw).double().numpy())).float()
