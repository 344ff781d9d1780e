"""Tasks on images: the task normalises uint8 images, and any net maps them to outputs."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from project.engine.compat import keep_buffers_unsynchronized
from project.engine.task import Task
from project.tasks.sizes import accepted_sizes, refusal

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

        if reason := refusal(build, in_channels, image_size):
            if sizes := accepted_sizes(build, in_channels):
                raise ValueError(f"data.image_size: got {image_size}; this model takes {sizes} pixels")
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
