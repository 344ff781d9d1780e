"""Image classification in a few epochs, by a net whose first layer is computed from the images."""

from typing import Any

import torch

from project.engine.loading import ImageDataModule
from project.models import WhitenedCNN
from project.tasks.classification import ImageClassifier

_IMAGES = 2000


class FastClassifier(ImageClassifier):
    """A classifier with `WhitenedCNN`, with settings of the optimizer for filters, biases and the last layer each.

    Args:
        bias_lr: Learning rate of biases, as a multiple of that of the filters.
        bias_decay: Weight decay of biases.
        head_lr: Learning rate of the last layer, as a multiple of that of the filters.
        head_decay: Weight decay of the last layer.
        options: See `ImageClassifier`.

    Raises:
        ValueError: The net is another one.
    """

    def __init__(
        self, bias_lr: float = 0.22, bias_decay: float = 0.075, head_lr: float = 2.8, head_decay: float = 0.006,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        if not isinstance(self.net, WhitenedCNN):
            raise ValueError(
                f"model.net: got {type(self.net).__name__}; FastClassifier needs project.models.WhitenedCNN"
            )
        self.bias_lr, self.bias_decay, self.head_lr, self.head_decay = bias_lr, bias_decay, head_lr, head_decay

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups `filters`, with Muon's updates, and `biases` and `head`, with those of SGD."""
        trained = [one for one in self.net.parameters() if one.requires_grad]
        by_dimensions = {count: [one for one in trained if one.ndim == count] for count in (4, 1, 2)}
        sgd = {"orthogonal": False, "momentum": 0.85}
        return [
            {"name": "filters", "params": by_dimensions[4]},
            {"name": "biases", "params": by_dimensions[1], "lr_scale": self.bias_lr, "weight_decay": self.bias_decay}
            | sgd,
            {"name": "head", "params": by_dimensions[2], "lr_scale": self.head_lr, "weight_decay": self.head_decay}
            | sgd,
        ]

    def setup(self, stage: str) -> None:
        """Whiten by images of train, before a strategy shards the net; a checkpoint then replaces the weights."""
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        assert isinstance(self.net, WhitenedCNN)
        images, _ = data.fetch("train", torch.arange(min(_IMAGES, data.sizes()["train"])))
        self.net.whiten(self.normalised(images))
