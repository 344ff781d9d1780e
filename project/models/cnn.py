"""The CNN of the article: four convolutions and two fully connected layers."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from project.models.fourier_conv import Convolution, make_convolution


class CNN(nn.Module):
    """Convolutions, each with ReLU and 2x2 max pooling, then a hidden layer, then the classes.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Side of the square images in pixels; the hidden layer's inputs follow from it.
        widths: Channels of each convolution.
        kernel_size: Side of every convolution's kernel in pixels.
        padding: Pixels added on each side before a convolution; `same` keeps the image's size.
        hidden: Width of the fully connected layer before the classes.
        dropout: Probability of dropping a hidden unit, in [0, 1).
        feature_size: Fixed side of the last feature map; null computes it from `image_size`.
        convolution: `direct` is torch's, `fourier` is fast for large kernels, and `auto` chooses for each layer what is
            faster on CPUs. Outputs differ only by rounding, and weights are interchangeable.

    Raises:
        ValueError: The images are too small for the convolutions, or a setting is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        widths: Sequence[int] = (64, 64, 128, 128),
        kernel_size: int = 3,
        padding: int | Literal["same"] = "same",
        hidden: int = 512,
        dropout: float = 0.0,
        feature_size: int | None = None,
        convolution: Convolution = "auto",
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or kernel_size < 1 or hidden < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"got widths {list(widths)}, kernel_size {kernel_size}, hidden {hidden}, dropout {dropout}; "
                "widths, kernel_size and hidden must be 1 or more, dropout in [0, 1)"
            )
        layers: list[nn.Module] = []
        side = image_size
        for channels_in, channels_out in zip([in_channels, *widths], widths, strict=False):
            layer = make_convolution(channels_in, channels_out, kernel_size, padding, side, convolution)
            # Pooling before ReLU has the same result as after it, with a quarter of ReLU's work.
            layers += [layer, nn.MaxPool2d(2), nn.ReLU()]
            side = (side if padding == "same" else side + 2 * padding - kernel_size + 1) // 2
        side = feature_size or side
        if side < 1:
            raise ValueError(f"images of {image_size} pixels shrink to nothing in {len(widths)} convolutions")
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), normalised float, to logits (N, num_classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
