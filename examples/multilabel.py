"""Multi-label classification: which digits are in an image?

python -m project.fit --config examples/multilabel.yaml
"""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from project.engine.loading import ImageArray, ImageDataModule, Split
from project.tasks import ImageTask
from project.tasks.image import NetCallable

DIGITS = 10


class DigitScenes(ImageDataModule):
    """Images of 32x32 pixels with one to four of scikit-learn's digits. Targets: float (N, 10), 1 for each digit."""

    name = "digit_scenes"
    native_size, native_channels = 32, 1
    native_mean, native_std = (0.184,), (0.328,)

    def load(self, split: Split) -> ImageArray | None:
        """Compose 3,000 images of train or 500 of test; they are the same each time."""
        if split == "val":
            return None
        parts = train_test_split(*load_digits(return_X_y=True), test_size=360, random_state=0)
        pixels, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
        count = 3000 if split == "train" else 500
        draw = np.random.default_rng(count)
        chosen = draw.integers(len(labels), size=(count, 4))
        shown = draw.random((count, 4)) < 0.6
        shown[:, 0] |= ~shown.any(1)
        tiles = np.kron(pixels[chosen].reshape(count, 2, 2, 8, 8), np.ones((2, 2))) * shown.reshape(count, 2, 2, 1, 1)
        scenes = tiles.transpose(0, 1, 3, 2, 4).reshape(count, 1, 32, 32) * (255 / 16)
        targets = np.zeros((count, DIGITS), np.float32)
        images, places = shown.nonzero()
        targets[images, labels[chosen[images, places]]] = 1
        return ImageArray(torch.from_numpy(scenes).byte(), torch.from_numpy(targets))


class MultilabelClassifier(ImageTask):
    """A task that predicts the labels of an image; each label has its own logit.

    Args:
        net: Called with `num_labels`, the channels and the side of the images; returns a module with logits
            (N, num_labels).
        num_labels: Number of labels.
        options: See `ImageTask`.
    """

    monitor = "val/average_precision"

    def __init__(self, net: NetCallable, num_labels: int = DIGITS, **options: Any) -> None:
        metrics = MetricCollection(
            {"f1": MultilabelF1Score(num_labels), "average_precision": MultilabelAveragePrecision(num_labels)}
        )
        super().__init__(net=net, outputs=num_labels, loss=nn.BCEWithLogitsLoss(), metrics=metrics, **options)

    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        """Update the metrics, which take probabilities, and integers as targets."""
        metrics.update(outputs.sigmoid(), targets.int())
