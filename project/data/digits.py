"""Handwritten digits from scikit-learn: real images, no download."""

import torch
import torch.nn.functional as F

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
        from sklearn.datasets import load_digits  # It takes a second to import, and other data do not need it.
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        train, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
        chosen = train if split == "train" else test
        images = torch.from_numpy(pixels[chosen]).float().view(-1, 1, 8, 8) * (255 / 16)
        images = F.interpolate(images, size=32, mode="bilinear", align_corners=False)
        return ImageArray(images.round().byte(), torch.from_numpy(labels[chosen]).long())
