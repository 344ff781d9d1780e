"""A folder of images, one subfolder for each class."""

from pathlib import Path
from typing import Any

import torch

from project.data.datamodule import ImageDataModule, Split
from project.loading import ImageFiles

LAYOUT = "expected ROOT/train/CLASS/*.jpg, and if you have them ROOT/val/CLASS/* and ROOT/test/CLASS/*"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class ImageFolder(ImageDataModule):
    """Images under `root/train/CLASS/`, with `root/val/` and `root/test/` where they exist.

    Classes are the subfolders of train in alphabetical order. Without val a part of train is taken;
    without test the run is scored on val.

    Args:
        root: The folder that has `train`.
        image_size: Side in pixels to which images are resized and cropped.
        options: See `ImageDataModule`.

    Raises:
        FileNotFoundError: There is no `root/train`.
        ValueError: A class has no images, a split has a class that train has not, or a folder is no class.
    """

    native_size, native_channels = 64, 3
    native_mean, native_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
    in_memory = False

    def __init__(self, root: str = "data", image_size: int = 64, **options: Any) -> None:
        self.root = Path(root)
        self.name = self.root.resolve().name
        if not (self.root / "train").is_dir():
            raise FileNotFoundError(f"data.root: there is no folder {self.root / 'train'}; {LAYOUT}")
        self.class_names = tuple(_class_folders(self.root / "train"))
        super().__init__(image_size=image_size, **options)

    def load(self, split: Split) -> ImageFiles | None:
        """List the files of a split."""
        if not (self.root / split).is_dir():
            return None
        paths: list[Path] = []
        labels: list[int] = []
        for name in _class_folders(self.root / split):
            if name not in self.class_names:
                raise ValueError(
                    f"data.root: {self.root / split} has a class {name!r} that train has not; train has "
                    f"{', '.join(self.class_names)}"
                )
            files = sorted(p for p in (self.root / split / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not files:
                raise ValueError(
                    f"data.root: no image in {self.root / split / name}; images end in {', '.join(sorted(SUFFIXES))}"
                )
            paths += files
            labels += [self.class_names.index(name)] * len(files)
        return ImageFiles(paths, torch.tensor(labels), self.image_size)


def _class_folders(split: Path) -> list[str]:
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir())
    for name in names:
        if name.startswith((".", "__")):
            raise ValueError(f"data.root: {split / name} is no class; remove it (rm -r '{split / name}')")
    if not names:
        raise ValueError(f"data.root: {split} has no class folders; {LAYOUT}")
    return names
