"""CIFAR-10, as torchvision downloads it."""

from project.data.torchvision_images import TorchvisionImages


class CIFAR10(TorchvisionImages):
    """Colour images of ten classes, 32x32 pixels: 50,000 for train, 10,000 for test.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    name = "cifar10"
    native_size, native_channels = 32, 3
    native_mean, native_std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    dataset, folder = "CIFAR10", "cifar-10-batches-py"
