"""Image classification in a few epochs, by a net whose first layer is computed from the images."""

from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from project.engine.loading import ImageDataModule
from project.models import WhitenedCNN
from project.tasks.classification import ImageClassifier

_IMAGES = 2000


class LinearDecay(LambdaLR):
    """A linear decay to zero at the end of the training; a group with `until` reaches zero after that share of it.

    Args:
        optimizer: Its learning rates are those of the first step.
        total_steps: Length of the training in steps.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(
            optimizer,
            [partial(_remaining_share, total_steps * group.get("until", 1.0)) for group in optimizer.param_groups],
        )


def _remaining_share(steps: float, step: int) -> float:
    return max(0.0, 1 - step / steps)


class FastClassifier(ImageClassifier):
    """A classifier with `WhitenedCNN`, and separate settings of the optimizer for filters, biases and the last layer.

    Args:
        bias_lr: Learning rate of biases, as a multiple of the filters' rate, for 2,000 images per step; it is
            multiplied by the number of images per step, divided by 2,000.
        bias_decay: Weight decay of biases.
        head_lr: Learning rate of the last layer; see `bias_lr`.
        head_decay: Weight decay of the last layer.
        whitening_share: Share of the training in which the biases of the whitening are trained, in (0, 1].
        options: See `ImageClassifier`.

    Raises:
        ValueError: The net is not a `WhitenedCNN`, or the share is out of its range.
    """

    def __init__(
        self, bias_lr: float = 440.0, bias_decay: float = 3.8e-5, head_lr: float = 6.9, head_decay: float = 2.4e-3,
        whitening_share: float = 3 / 8, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        if not isinstance(self.net, WhitenedCNN):
            raise ValueError(
                f"model.net: got {type(self.net).__name__}; FastClassifier needs project.models.WhitenedCNN"
            )
        if not 0 < whitening_share <= 1:
            raise ValueError(f"model.whitening_share: got {whitening_share}; it must be in (0, 1]")
        self.bias_lr, self.bias_decay, self.head_lr, self.head_decay = bias_lr, bias_decay, head_lr, head_decay
        self.whitening_share = whitening_share
        self._images_per_step = _IMAGES

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups `filters`, with Muon's updates, and `whitening`, `biases` and `head`, with those of SGD."""
        trained = [one for one in self.net.parameters() if one.requires_grad]
        by_dimensions = {count: [one for one in trained if one.ndim == count] for count in (4, 1, 2)}
        sgd = {"orthogonal": False, "momentum": 0.85}
        share = self._images_per_step / _IMAGES
        biases = sgd | {"lr_scale": share * self.bias_lr, "weight_decay": self.bias_decay}
        head = sgd | {"lr_scale": share * self.head_lr, "weight_decay": self.head_decay}
        whitening, *norms = by_dimensions[1]  # in the order of the layers
        return [
            {"name": "filters", "params": by_dimensions[4]},
            {"name": "whitening", "params": [whitening], "until": self.whitening_share} | biases,
            {"name": "biases", "params": norms} | biases,
            {"name": "head", "params": by_dimensions[2]} | head,
        ]

    def setup(self, stage: str) -> None:
        """Whiten with images of train before a strategy shards the net; a loaded checkpoint replaces the weights."""
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageDataModule):
            raise ValueError(f"--data: got {type(data).__name__}; FastClassifier needs an ImageDataModule")
        assert isinstance(self.net, WhitenedCNN)
        self._images_per_step = data.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        size = data.sizes()["train"]
        count = min(_IMAGES, size)
        images, _ = data.fetch("train", torch.arange(count) * size // count)  # Images may be in the order of classes.
        self.net.whiten(self.normalised(images))
