"""Plain modules: uint8 images become normalised floats before they arrive here.

A model is any `nn.Module` whose first three arguments are `num_classes`, `in_channels` and `image_size`;
the data sets them. Every further argument is an option (`--model.net.NAME`).
"""

from project.models.cnn import CNN
from project.models.torchvision import TorchvisionModel
from project.models.whitened_cnn import WhitenedCNN

__all__ = ["CNN", "TorchvisionModel", "WhitenedCNN"]
