"""Regression from images: by how many degrees is a digit rotated?

python -m project.fit --config examples/regression.yaml
"""

from typing import Any

import numpy as np
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from project.engine.loading import ImageArray, ImageDataModule, Split
from project.tasks import ImageTask
from project.tasks.image import NetCallable

MOST_DEGREES = 45


class RotatedDigits(ImageDataModule):
    """scikit-learn's digits, 24x24 pixels, each rotated by -45 to 45 degrees. Targets: degrees, float (N,)."""

    name = "rotated_digits"
    native_size, native_channels = 24, 1
    native_mean, native_std = (0.29,), (0.357,)

    def load(self, split: Split) -> ImageArray | None:
        """Rotate the digits of train or test; they are the same each time."""
        if split == "val":
            return None
        train, test = train_test_split(load_digits().images, test_size=360, random_state=0)
        digits = train if split == "train" else test
        degrees = np.random.default_rng(len(digits)).uniform(-MOST_DEGREES, MOST_DEGREES, len(digits))
        large = np.kron(digits / 16, np.ones((3, 3)))
        rotated = [rotate(image, angle, reshape=False, order=1) for image, angle in zip(large, degrees, strict=True)]
        images = torch.from_numpy(np.stack(rotated) * 255).clamp(0, 255).byte().unsqueeze(1)
        return ImageArray(images, torch.from_numpy(degrees).float())


class ImageRegression(ImageTask):
    """A task that predicts a number for each image.

    Args:
        net: Called with 1, the channels and the side of the images; returns a module with outputs (N, 1).
        scale: Factor of the outputs of the net, such as the size of a large target.
        options: See `ImageTask`.
    """

    monitor = "val/mae"

    def __init__(self, net: NetCallable, scale: float = 1.0, **options: Any) -> None:
        metrics = MetricCollection({"mae": MeanAbsoluteError(), "r2": R2Score()})
        super().__init__(net=net, outputs=1, loss=nn.SmoothL1Loss(), metrics=metrics, **options)
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to numbers (N,)."""
        return self.scale * super().forward(images).squeeze(1)
