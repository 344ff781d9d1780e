"""A tiny datamodule, net and task, for fits that take less than a second."""

import torch
from lightning import Callback
from torch import Tensor, nn

from project.data import LabelledImages
from project.engine.loading import ImageArray, Split
from project.tasks import ImageClassifier

COMPLETE = ["--data.class_path=tiny.Tiny", "--data.augmentation.crop_padding=0", "--data.batch_size=4",
            "--model.net=tiny.TinyNet"]  # fmt: skip
"""A classifier with figures and a served model, which take half of the time of such a fit."""

SERVED = [*COMPLETE, "--model.class_path=tiny.ServedTask"]
"""A classifier without figures."""

TINY = [*COMPLETE, "--model.class_path=tiny.TinyTask"]
"""A classifier without figures and without a served model."""


class Tiny(LabelledImages):
    """16 train images of 8x8 pixels in four batches, and 8 images in two batches for each other split."""

    name = "tiny"
    native_size, native_channels = 8, 1
    native_mean, native_std = (0.5,), (0.25,)
    class_names = ("dark", "bright")

    def load(self, split: Split) -> ImageArray:
        count = 16 if split == "train" else 8
        labels = torch.arange(count) % 2
        noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
        return ImageArray((noise * 127 + 120 * labels.view(-1, 1, 1, 1)).byte(), labels)


class Many(Tiny):
    """60 test images, for tests of significance."""

    seed = 0

    def load(self, split: Split) -> ImageArray:
        if split != "test":
            return super().load(split)
        labels = torch.arange(60) % 2
        noise = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(self.seed))
        return ImageArray((noise * 127 + 120 * labels.view(-1, 1, 1, 1)).byte(), labels)


class Others(Many):
    """Other test images under the same name."""

    seed = 1


class TinyNet(nn.Module):
    """One linear layer."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.head(images.flatten(1))
        return logits


class ServedTask(ImageClassifier):
    """A classifier without figures."""

    def configure_callbacks(self) -> list[Callback]:
        return []


class TinyTask(ServedTask):
    """A classifier without figures and without a served model."""

    def serving_model(self) -> None:  # type: ignore[override]
        return None
