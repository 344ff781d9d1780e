"""MNIST and Fashion-MNIST, as torchvision downloads them."""

from project.data.torchvision_images import TorchvisionImages


class MNIST(TorchvisionImages):
    """Grey images of handwritten digits, 28x28 pixels: 60,000 for train, 10,000 for test.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
    """

    name = "mnist"
    native_size, native_channels = 28, 1
    native_mean, native_std = (0.131,), (0.308,)
    class_names = tuple("0123456789")
    dataset, folder = "MNIST", "MNIST/raw"


class FashionMNIST(TorchvisionImages):
    """Grey images of clothes, 28x28 pixels: 60,000 for train, 10,000 for test.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747.
    """

    name = "fashion_mnist"
    native_size, native_channels = 28, 1
    native_mean, native_std = (0.286,), (0.353,)
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    dataset, folder = "FashionMNIST", "FashionMNIST/raw"
