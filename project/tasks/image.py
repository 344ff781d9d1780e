"""Tasks on images: the task normalises uint8 images, and any net maps them to outputs."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from project.engine.compat import keep_buffers_unsynchronized
from project.engine.task import Task

_USUAL_SIZES = (8, 16, 28, 32, 64, 128, 224, 256, 299, 384, 512)
NetCallable = Callable[[int, int, int], nn.Module]
"""Makes a net; called with the number of outputs, the channels and the side of the images."""


class ImageTask(Task):
    """A task whose inputs are images; normalisation is part of the model.

    Args:
        net: Makes a module that maps normalised images (N, C, H, W) to its outputs.
        outputs: First argument of `net`, such as the number of classes.
        in_channels: Channels of the images; comes from the data, as do the next three arguments.
        image_size: Side of the images in pixels.
        mean: Mean of each channel, of images in [0, 1].
        std: Standard deviation of each channel, of images in [0, 1].
        options: See `Task`.

    Raises:
        ValueError: The net does not take images of this size.
    """

    from_data: ClassVar[tuple[str, ...]] = ("in_channels", "image_size", "mean", "std")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: NetCallable,
        outputs: int,
        in_channels: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        **options: Any,
    ) -> None:
        def build(size: int) -> nn.Module:
            return net(outputs, in_channels, size)

        if reason := _refusal(build, in_channels, image_size):
            for size in _USUAL_SIZES:
                if _refusal(build, in_channels, size) is None:
                    raise ValueError(f"data.image_size: got {image_size}; this model takes, for example, {size} pixels")
            raise ValueError(f"model.net: {reason}")
        super().__init__(net=build(image_size), **options)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        keep_buffers_unsynchronized(self, ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to the outputs of the net (N, ...)."""
        return self.net_outputs(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W), uint8, as floats with zero mean and unit variance."""
        floats = images.to(self.mean.dtype, memory_format=self.memory_format)
        return (floats / 255 - self.mean) / self.std


def _refusal(build: Callable[[int], nn.Module], channels: int, size: int) -> str | None:
    """Return why the model of `build(size)` cannot run on square images of `size` pixels; None if it can.

    Nothing is computed: tensors on the meta device have a shape and no content.
    """
    with torch.device("meta"):
        try:
            build(size)(torch.empty(2, channels, size, size))
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            if "meta" in str(error):  # The net reads values, which meta tensors do not have.
                return None
            return " ".join(str(error).split())
    return None
