"""Segmentation: which pixels belong to a digit? Masks are augmented with the geometry of their images.

python -m project.fit --config examples/segmentation.yaml
"""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from project.engine.loading import ImageArray, ImageDataModule, Split
from project.tasks import ImageTask
from project.tasks.image import NetCallable

CLASSES = 2


class DigitMasks(ImageDataModule):
    """Images of 32x32 pixels: a digit of scikit-learn among bars of the same brightness.

    Targets: masks uint8 (N, 32, 32), 1 for the pixels of the digit.
    """

    name = "digit_masks"
    native_size, native_channels = 32, 1
    native_mean, native_std = (0.198,), (0.232,)

    def load(self, split: Split) -> ImageArray | None:
        """Compose an image for each digit of train or test; they are the same each time."""
        if split == "val":
            return None
        train, test = train_test_split(load_digits().images, test_size=360, random_state=0)
        digits = train if split == "train" else test
        draw = np.random.default_rng(len(digits))
        images = draw.integers(0, 60, (len(digits), 32, 32))
        masks = np.zeros((len(digits), 32, 32), np.uint8)
        for image, mask, digit in zip(images, masks, digits, strict=True):
            for start in draw.integers(0, 24, 3):  # Bars, which are not digits.
                image[draw.integers(32), start : start + 8] = 200
                image[start : start + 8, draw.integers(32)] = 200
            top, left = draw.integers(0, 17, 2)
            large = np.kron(digit, np.ones((2, 2)))
            mask[top : top + 16, left : left + 16] = large > 7
            image[mask.astype(bool)] = draw.integers(150, 255)
        return ImageArray(torch.from_numpy(images).byte().unsqueeze(1), torch.from_numpy(masks))


class UNet(nn.Module):
    """An encoder and a decoder of two levels, with a connection between levels of the same size.

    Source: Ronneberger, Fischer and Brox, U-Net, arXiv:1505.04597.

    Args:
        width: Channels of the first level.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int = 16) -> None:
        super().__init__()
        if image_size % 2:
            raise ValueError(f"got {image_size} pixels; the size must be even")
        self.down, self.inner = _block(in_channels, width), _block(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Sequential(_block(2 * width, width), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), normalised float, to logits (N, num_classes, H, W)."""
        large = self.down(images)
        small = self.inner(nn.functional.max_pool2d(large, 2))
        logits: Tensor = self.out(torch.cat([large, self.up(small)], 1))
        return logits


def _block(channels: int, width: int) -> nn.Module:
    first = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(first, second)


class Segmentation(ImageTask):
    """A task that predicts the class of each pixel; `iou` is the mean intersection over union of the classes.

    Args:
        net: Called with the number of classes, the channels and the side of the images; returns a module with logits
            (N, classes, H, W).
        options: See `ImageTask`.
    """

    monitor = "val/iou"

    def __init__(self, net: NetCallable, **options: Any) -> None:
        metrics = MetricCollection({"iou": MulticlassJaccardIndex(CLASSES)})
        super().__init__(net=net, outputs=CLASSES, loss=PixelLoss(), metrics=metrics, **options)


class PixelLoss(nn.CrossEntropyLoss):
    """Cross-entropy of logits (N, classes, H, W) and masks uint8 (N, H, W)."""

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the mean over all pixels."""
        return super().forward(logits, masks.long())
