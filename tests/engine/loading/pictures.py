"""Makers of pictures for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """Make a picture of smooth colours, which JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([255 * y / height, 255 * x / width, 255 - 255 * y / height], 2).round().astype(np.uint8)
    )


def image_folder(root: Path, count: int) -> Path:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
        for index in range(count):
            picture(90, 120).save(root / split / "ab"[index % 2] / f"{index}.jpg")
    return root
