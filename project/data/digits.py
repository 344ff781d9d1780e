"""Handwritten digits from scikit-learn: real images, no download."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from project.data.labelled import LabelledImages
from project.engine.compat import digits_file
from project.engine.loading import ImageArray, Split

# The rows of train, then of test, each in a fixed order.
_SPLITS = Path(__file__).with_name("digits_splits.csv")


class Digits(LabelledImages):
    """1,797 grey images of handwritten digits, resized from 8x8 to 32x32 pixels; 360 of them are for test.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998. scikit-learn has no official split; ours is fixed and stratified. Its seed 0 has drawn it.
    """

    name = "digits"
    native_size, native_channels = 32, 1
    native_mean, native_std = (0.305,), (0.324,)
    class_names = tuple("0123456789")

    def load(self, split: Split) -> ImageArray | None:
        """Resize the images of train or test."""
        if split == "val":
            return None
        table = torch.from_numpy(np.loadtxt(digits_file(), dtype=np.uint8, delimiter=","))
        train, test = _SPLITS.read_text(encoding="ascii").splitlines()
        rows = table[[int(row) for row in (train if split == "train" else test).split(",")]]
        images = rows[:, :-1].float().view(-1, 1, 8, 8) * (255 / 16)
        images = F.interpolate(images, size=32, mode="bilinear", align_corners=False)
        return ImageArray(images.round().byte(), rows[:, -1].long())
