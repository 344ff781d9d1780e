"""What all datasets share: the validation split, the loaders, and what the model must know of them."""

import hashlib
from abc import abstractmethod
from typing import Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torchvision.transforms.v2 import functional

from project.devices import usable_cores
from project.loading import EpochBatches, Images, MeasuredLoader, random_crop, random_flip

Split = Literal["train", "val", "test"]


class ImageDataModule(LightningDataModule):
    """Square images in the splits train, val and test; batches are uint8 (N, C, H, W) and int64 (N,).

    A dataset is a subclass that sets the attributes below and implements `load`.

    Args:
        batch_size: Images per step and device.
        val_fraction: Share of the training images that is kept for validation, in (0, 1).
        split_seed: Seed of that choice and of the order of training images.
        image_size: Side of the images in pixels; None keeps the dataset's own.
        channels: 1 or 3, to repeat grey images into three channels; None keeps the dataset's own.
        crop_padding: Largest random shift of training images in pixels; 0 is none.
        horizontal_flip: Mirror training images at random.
        num_workers: Loading processes per device; None is 0 for images in memory, else the cores there are.
        prefetch_factor: Batches that each loading process keeps ready.
        persistent_workers: Keep loading processes between epochs.
        pin_memory: Page-locked batches for asynchronous copies; None when there is a GPU.
    """

    name: str
    native_size: int
    native_channels: int
    native_mean: tuple[float, ...]
    native_std: tuple[float, ...]
    class_names: tuple[str, ...]
    in_memory = True

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        for attribute in ("name", "native_size", "native_channels", "native_mean", "native_std", "class_names"):
            if not hasattr(self, attribute):
                raise ValueError(f"{type(self).__name__} sets no {attribute}; see ImageDataModule in project/data")
        for option, value, least in (
            ("batch_size", batch_size, 1),
            ("image_size", image_size or self.native_size, 1),
            ("crop_padding", crop_padding, 0),
            ("num_workers", num_workers or 0, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            if value < least:
                raise ValueError(f"data.{option}: got {value}; it must be {least} or more")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction: got {val_fraction}; it must be between 0 and 1, both excluded")
        if channels == 1 and self.native_channels == 3:
            raise ValueError(f"data.channels: got 1; {self.name} has colour images, which stay as they are: 3")
        self.batch_size, self.val_fraction, self.split_seed = batch_size, val_fraction, split_seed
        self.image_size = image_size or self.native_size
        self.channels = channels or self.native_channels
        self.crop_padding, self.horizontal_flip = crop_padding, horizontal_flip
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.persistent_workers, self.pin_memory = persistent_workers, pin_memory
        self.splits: dict[Split, Images] = {}

    @abstractmethod
    def load(self, split: Split) -> Images | None:
        """Open the images of a split, or return None where the dataset has no such split of its own.

        Raises:
            FileNotFoundError: The images are not there.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of images in [0, 1]."""
        return self.native_mean * (self.channels // len(self.native_mean))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of images in [0, 1]."""
        return self.native_std * (self.channels // len(self.native_std))

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; known after `setup`."""
        return "test" in self.splits

    def setup(self, stage: str) -> None:  # all stages share the splits
        """Load the splits once; where the dataset has no validation split, take it from train."""
        if self.splits:
            return
        train, val, test = self.load("train"), self.load("val"), self.load("test")
        assert train is not None
        if val is None:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.split_seed))
            cut = round(self.val_fraction * len(train))
            if not 0 < cut < len(train):
                raise ValueError(
                    f"data.val_fraction: got {self.val_fraction}, which leaves {cut} of {len(train):,} images for "
                    "validation; both splits need one at least"
                )
            train, val = train.subset(order[cut:]), train.subset(order[:cut])
        self.splits = {"train": train, "val": val}
        if test is not None:
            self.splits["test"] = test

    def examples(self) -> Tensor:
        """Two images of the last split as the model receives them, (2, C, H, W) uint8."""
        images, _ = list(self.splits.values())[-1][[0, 1]]
        return self.fit_model(images)

    def check_batch_size(self, ranks: int) -> None:
        """Raise ValueError when a step of all ranks asks for more images than train has."""
        images = len(self.splits["train"])
        if self.batch_size * ranks > images:
            raise ValueError(
                f"data.batch_size: got {self.batch_size} on {ranks} devices, but train has {images:,} images; "
                f"use {images // ranks} or less"
            )

    def digest(self) -> str:
        """Eight hexadecimal digits that change with the splits' sizes and labels and the images' size."""
        hashed = hashlib.sha256(f"{self.name} {self.image_size} {self.channels}".encode())
        for split in self.splits.values():
            hashed.update(split.labels.numpy().tobytes())
        return hashed.hexdigest()[:8]

    def train_dataloader(self) -> MeasuredLoader:
        """Batches of train in an order that changes every epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> MeasuredLoader:
        """Batches of val."""
        return self._loader("val")

    def test_dataloader(self) -> MeasuredLoader:
        """Batches of test."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Bring images, already on the device, to the model's size and channels; augment those of train."""
        images, labels = batch
        images = self.fit_model(images)
        if self.trainer is not None and self.trainer.training:
            if self.crop_padding:
                images = random_crop(images, self.crop_padding)
            if self.horizontal_flip:
                images = random_flip(images)
        return images, labels

    def fit_model(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W) uint8 to `image_size` and repeat them into `channels`."""
        if images.shape[-1] != self.image_size:
            images = functional.resize(images, [self.image_size, self.image_size], antialias=True)
        return images.expand(-1, self.channels, -1, -1)

    def _loader(self, split: Split, *, shuffle: bool = False) -> MeasuredLoader:
        images, trainer = self.splits[split], self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        workers = self._default_workers(ranks) if self.num_workers is None else self.num_workers
        return MeasuredLoader(
            images,
            # The sampler yields whole batches, so that a store fetches one at a time.
            sampler=EpochBatches(
                len(images), self.batch_size, shuffle=shuffle, seed=self.split_seed, rank=rank, ranks=ranks
            ),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=self.persistent_workers and workers > 0,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
        )

    def _default_workers(self, ranks: int) -> int:
        return 0 if self.in_memory else max(1, usable_cores() // ranks)
