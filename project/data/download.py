"""Downloads of torchvision's datasets, with errors that contain the remedy."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset


def downloaded(dataset: "type[VisionDataset]", root: Path) -> None:
    """Download the files of a torchvision dataset to `root` if they are missing.

    Raises:
        OSError: They are missing and cannot be downloaded.
    """
    try:
        for train in (True, False):
            dataset(root, train=train, download=True)
    except (URLError, RuntimeError) as error:  # RuntimeError: every mirror failed, or a damaged file
        raise OSError(
            f"data.root: {dataset.__name__} is not complete under {str(root)!r} and cannot be downloaded "
            f"({' '.join(str(error).split())[:160]}); copy its files there, or set data.root to their folder"
        ) from error
