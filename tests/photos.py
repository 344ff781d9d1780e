"""A folder of photos of mixed sizes and kinds, and a run on them."""

from pathlib import Path

import numpy as np
from conftest import SMALL_NET, at
from PIL import Image

from project.evaluate import main as evaluate
from project.fit import main as fit

FOLDER = ["--data=image_folder", "--data.batch_size=4", "--data.image_size=32", "--max_epochs=1", *SMALL_NET,
          "--model.class_path=tiny.ServedTask"]  # fmt: skip


def train_on_photos(folder: Path) -> None:
    """Train on photos in `data/` of a folder, and evaluate the run."""
    with at(folder):
        write_photos(folder / "data")
        fit(FOLDER)
        evaluate(["latest"])


def write_photos(root: Path) -> None:
    """Write JPEGs and PNGs, large, rotated by EXIF, grey and with transparency."""
    draw = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for label in ("blue", "red"):
            (root / split / label).mkdir(parents=True)
            for number, side in enumerate((40, 50, 90, 300, 700, 64)):
                pixels = draw.integers(0, 256, (side, 2 * side // 3 + 9, 3), dtype=np.uint8)
                mode = {1: "L", 5: "RGBA"}.get(number, "RGB")
                image = Image.fromarray(pixels).resize((side + 7, side), Image.Resampling.BICUBIC).convert(mode)
                image.save(root / split / label / f"{number}.{'png' if number % 2 else 'jpg'}",
                           **({"exif": exif} if number == 2 else {}))  # fmt: skip
