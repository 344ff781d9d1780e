"""The MLP that lightning-hydra-template trains on MNIST, for comparisons with that template."""

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Three linear layers with batch norm and ReLU, and a linear layer that returns the logits.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Side of the square images in pixels.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise([in_channels * image_size**2, 64, 128, 64]):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), normalised float, to logits (N, num_classes)."""
        logits: Tensor = self.layers(images)
        return logits
