"""MNIST and Fashion-MNIST, as torchvision downloads them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from project.data.download import downloaded
from project.data.in_memory import shared
from project.data.labelled import LabelledImages
from project.data.root import data_root
from project.engine.loading import ImageArray, Split

if TYPE_CHECKING:
    from torchvision import datasets


class MNIST(LabelledImages):
    """Grey images of handwritten digits, 28x28 pixels: 60,000 for train, 10,000 for test.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.

    Args:
        root: Folder of the files: `root/MNIST/raw/*-ubyte`. Missing files are downloaded there.
        options: See `LabelledImages`.
    """

    name = "mnist"
    native_size, native_channels = 28, 1
    native_mean: tuple[float, ...] = (0.131,)
    native_std: tuple[float, ...] = (0.308,)
    class_names: tuple[str, ...] = tuple("0123456789")
    dataset: ClassVar[str] = "MNIST"
    """Name of the class in `torchvision.datasets`, and of the folder of its files."""

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.root = data_root(root)
        self.source = str(self.root)

    def prepare_data(self) -> None:
        """Download missing files."""
        downloaded(self._dataset_class(), self.root)

    def load(self, split: Split) -> ImageArray | None:
        """Map train or test into memory."""
        if split == "val":
            return None

        def read() -> tuple[NDArray[Any], NDArray[Any]]:
            source = self._dataset_class()(self.root, train=split == "train")
            return source.data.unsqueeze(1).numpy(), source.targets.numpy()

        return shared(Path(self.root, self.dataset, "raw"), split, read)

    def _dataset_class(self) -> type["datasets.MNIST"]:
        from torchvision import datasets  # It takes seconds to import, and training on other data does not need it.

        found: type[datasets.MNIST] = getattr(datasets, self.dataset)
        return found


class FashionMNIST(MNIST):
    """Grey images of clothes, 28x28 pixels: 60,000 for train, 10,000 for test.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747.

    Args:
        root: Folder of the files: `root/FashionMNIST/raw/*-ubyte`. Missing files are downloaded there.
        options: See `LabelledImages`.
    """

    name = "fashion_mnist"
    native_mean, native_std = (0.286,), (0.353,)
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    dataset = "FashionMNIST"
