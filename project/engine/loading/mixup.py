"""Mixup and CutMix: each image and its target are mixed with another image of the batch and its target.

Image i is mixed with image N-1-i of the shuffled batch. The mixing ratio and the box are drawn from the image's key.
The image in the middle of an odd batch is not changed.
"""

import torch
from torch import Tensor

from project.engine.loading.counter_rng import integers, uniform

_MIXUP, _CUTMIX = 110, 111


def mixup(images: Tensor, targets: Tensor, keys: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image with another one.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Args:
        images: (N, C, H, W) uint8.
        targets: (N, ...) float, such as probabilities of classes.
        keys: (N,) int64, on the CPU or on the device of the images.
        alpha: An image's share is drawn from Beta(alpha, alpha); above 0.

    Returns:
        Images and targets, of the shapes and dtypes that were given.
    """
    share = _beta(keys, _MIXUP, alpha).to(images.device).view(-1, 1, 1, 1)
    mixed = (share * images + (1 - share) * images.flip(0)).round().to(images.dtype)
    return mixed, _mixed(targets, share.flatten())


def cutmix(images: Tensor, targets: Tensor, keys: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Replace a box of each image by the same box of another one.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019.

    Args:
        images: (N, C, H, W) uint8.
        targets: (N, ...) float, such as probabilities of classes.
        keys: (N,) int64, on the CPU or on the device of the images.
        alpha: The share of the image that stays is drawn from Beta(alpha, alpha); above 0.

    Returns:
        Images and targets, of the shapes and dtypes that were given.
    """
    side = (1 - _beta(keys, _CUTMIX, alpha)).sqrt()
    inside = [
        _within(integers(keys, _CUTMIX + 1 + axis, length), side * length, length)
        for axis, length in enumerate(images.shape[2:])
    ]
    box = (inside[0][:, :, None] & inside[1][:, None, :]).to(images.device)
    mixed = torch.where(box.unsqueeze(1), images.flip(0), images)
    return mixed, _mixed(targets, 1 - box.float().mean((1, 2)))


def _mixed(targets: Tensor, share: Tensor) -> Tensor:
    share = share.view(-1, *(1 for _ in targets.shape[1:]))
    return share * targets + (1 - share) * targets.flip(0)


def _within(centre: Tensor, side: Tensor, length: int) -> Tensor:
    return (torch.arange(length, device=centre.device) - centre.unsqueeze(1)).abs() < side.unsqueeze(1) / 2


def _beta(keys: Tensor, draw: int, alpha: float) -> Tensor:
    from scipy.special import betaincinv  # It takes half a second to import.

    share = betaincinv(alpha, alpha, uniform(keys, draw).double().cpu().numpy())  # torch does not have this function.
    return torch.from_numpy(share).float().to(keys.device)
