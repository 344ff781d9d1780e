"""Handwritten digits from scikit-learn: real images, no download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from numpy.typing import NDArray

from project.data.in_memory import shared
from project.data.labelled import LabelledImages
from project.engine.loading import ImageArray, Split


class Digits(LabelledImages):
    """1,797 grey images of handwritten digits, resized from 8x8 to 32x32 pixels; 360 of them are for test.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998. scikit-learn has no official split; ours is fixed and stratified.
    """

    name = "digits"
    native_size, native_channels = 32, 1
    native_mean, native_std = (0.305,), (0.324,)
    class_names = tuple("0123456789")

    def load(self, split: Split) -> ImageArray | None:
        """Resize the images of train or test."""
        if split == "val":
            return None

        def read() -> tuple[NDArray[Any], NDArray[Any]]:
            from sklearn.datasets import load_digits  # Its import takes a tenth of the time to the first step.
            from sklearn.model_selection import train_test_split

            pixels, labels = load_digits(return_X_y=True)
            train, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
            chosen = train if split == "train" else test
            return pixels[chosen].reshape(-1, 1, 8, 8).astype("uint8"), labels[chosen].astype("uint8")

        package = find_spec("sklearn")
        assert package is not None and package.origin is not None
        small = shared(Path(package.origin).parent, split, read)
        images = F.interpolate(small.images.float() * (255 / 16), size=32, mode="bilinear", align_corners=False)
        return ImageArray(images.round().byte(), small.targets)
