"""Images with targets of any kind: their options, their splits, and their properties before training."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from project.engine.data import DescribedDataModule
from project.engine.loading.augmentation import Augmentation
from project.engine.loading.batches import EpochBatches, check_batch_size
from project.engine.loading.crop import Crop
from project.engine.loading.images import Batch, Fetched, ImageArray, Images, Request, fetch, images_digest
from project.engine.loading.ranges import check_range
from project.engine.loading.square import to_grey
from project.engine.loading.validation import split_off
from project.engine.loading.workers import Workers

Split = Literal["train", "val", "test"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_LARGEST_SIDE = 4096
_DEFAULT_AUGMENTATION, _DEFAULT_WORKERS = Augmentation(), Workers()


class ImageSplits(DescribedDataModule):
    """Square images with targets in the splits train, val and test. Datasets derive from `ImageDataModule`.

    Args:
        batch_size: Images per step and device.
        val_fraction: Share of training images kept for validation; in (0, 1), not used if there is a val split.
        split_seed: Seed of the validation split; also of the order of training images.
        image_size: Side of the images in pixels; null keeps the dataset's size.
        channels: Number of channels; 3 repeats grey images into three channels, 1 makes colours grey, null keeps the
            dataset's number.
        augmentation: Random changes of training images.
        workers: Threads or processes that load images.
        on_device: Keep the images on the training device, each process all of them, so that a step copies nothing
            from the host; only for images in memory.
    """

    declared: ClassVar[tuple[str, ...]] = ("name", "native_size", "native_channels", "native_mean", "native_std")
    native_size: int
    native_channels: int
    native_mean: tuple[float, ...]
    native_std: tuple[float, ...]

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        augmentation: Augmentation = _DEFAULT_AUGMENTATION,
        workers: Workers = _DEFAULT_WORKERS,
        on_device: bool = False,
    ) -> None:
        super().__init__()
        for attribute in self.declared:
            if not hasattr(self, attribute):
                raise ValueError(f"{type(self).__name__} does not set {attribute}; see its base classes")
        self.batch_size, self.val_fraction, self.split_seed = batch_size, val_fraction, split_seed
        self.image_size = self.native_size if image_size is None else image_size
        self.channels = channels or self.native_channels
        self.augmentation, self.workers, self.on_device = augmentation, workers, on_device
        self._check_options()
        self.crop = Crop(self.image_size, augmentation.random_resized_crop)
        self.source = self.source or self.name
        self.splits: dict[str, Images] = {}
        self.skipped: dict[str, int] = {}
        self.val_is_from_train = False

    def _check_options(self) -> None:
        check_range("data.batch_size", self.batch_size, 1)
        check_range("data.split_seed", self.split_seed, 0)
        check_range("data.image_size", self.image_size, 1, _LARGEST_SIDE)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"data.val_fraction: got {self.val_fraction}; it must be between 0 and 1, both excluded")
        check_range("data.augmentation.cutout", self.augmentation.cutout, 0, self.image_size)
        if self.augmentation.padding_mode == "reflect":
            check_range("data.augmentation.crop_padding", self.augmentation.crop_padding, 0, self.image_size - 1)

    @abstractmethod
    def load(self, split: Split) -> Images | None:
        """Open the images of a split, or return None if the dataset has no such split.

        Raises:
            FileNotFoundError: The images are not there.
        """

    @property
    def in_channels(self) -> int:
        """Number of channels that the model receives."""
        return self.channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, for images scaled to [0, 1]."""
        return self._of_channels(self.native_mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, for images scaled to [0, 1]."""
        return self._of_channels(self.native_std)

    def _of_channels(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return a value for each channel; the value of grey is the mean of the colours' values."""
        return (sum(values) / len(values),) if self.channels == 1 else values * (self.channels // len(values))

    @property
    @override
    def has_test(self) -> bool:
        """Whether there is a test split; known after `setup`."""
        return "test" in self.splits

    @override
    def setup(self, stage: str) -> None:
        """Load the splits once, for all stages; if the dataset has no validation split, take it from train."""
        if self.splits:
            return
        loaded = {split: self.load(split) for split in _SPLITS}
        found: dict[str, Images] = {split: images for split, images in loaded.items() if images is not None}
        for split, images in found.items():
            if not len(images):
                raise ValueError(
                    f"--data: {type(self).__name__} has no images in {split}; without it, load returns None"
                )
            self.check_targets(split, images.targets)
            self._check_on_device(split, images)
        self.val_is_from_train = "val" not in found
        if self.val_is_from_train:
            train = found["train"]
            places = self.split_off(train.targets)
            if not len(places[1]):
                raise ValueError(
                    f"data.val_fraction: none of the {len(train):,} images can be kept for validation, because there "
                    "are too few of each kind; add images"
                )
            found |= {"train": train.subset(places[0]), "val": self.as_validated(train).subset(places[1])}
        self.splits = {split: found[split] for split in _SPLITS if split in found}

    def _check_on_device(self, split: str, images: Images) -> None:
        if self.on_device and not isinstance(images, ImageArray):
            raise ValueError(
                f"data.on_device: got true, but {split} is not in memory: {type(images).__name__} loads each batch; it "
                "must be false, or for an image folder without random_resized_crop add --data.cache on"
            )

    def as_validated(self, train: Images) -> Images:
        """Return all images of train in the form in which a part of them is used for validation.

        A dataset that transforms its samples at random overrides it.
        """
        return train

    def check_targets(self, split: str, targets: Tensor) -> None:
        """Check the targets (N, ...) of a split; a subclass may raise ValueError."""

    def split_off(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the images of train and of val at random; returns their indices, int64."""
        return split_off(torch.zeros(len(targets), dtype=torch.int64), self.val_fraction, self.split_seed)

    def fetch(self, split: str, indices: Tensor) -> Batch:
        """Return images of a split as the model receives them, and their targets, without augmentation."""
        return self._received(fetch(self.splits[split], indices, self.crop))

    def _received(self, fetched: Fetched) -> Batch:
        images, targets = fetched.cropped()
        return self.with_channels(images), targets

    @override
    def samples(self, split: str) -> Iterator[Batch]:
        images = self.splits[split]
        requests = (Request(indices, None) for indices in torch.split(torch.arange(len(images)), self.batch_size))
        workers = replace(self.workers.per_device(1), pin_memory=False)
        return map(self._received, images.stream(requests, workers, Crop(self.image_size)))

    @override
    def sizes(self) -> dict[str, int]:
        return {split: len(images) for split, images in self.splits.items()}

    @override
    def found(self) -> list[str]:
        """Return a line with the number of images in each split; known after `setup`."""
        sizes = ", ".join(f"{self.origin(split)} {len(images):,}" for split, images in self.splits.items())
        return [f"{self.name}: {self.size_text}; {sizes}{self.without_test}"]

    @property
    def size_text(self) -> str:
        """The size of the images as text."""
        return f"{self.image_size}x{self.image_size} pixels"

    @property
    def without_test(self) -> str:
        """A remark if there is no test split; known after `setup`."""
        return "" if self.has_test else ", no test (scored on val)"

    def origin(self, split: str) -> str:
        """Return the name of a split, and where its images come from; known after `setup`."""
        return "val (from train)" if split == "val" and self.val_is_from_train else split

    @override
    def all_targets(self, split: str) -> Tensor | None:
        images = self.splits.get(split)
        return None if images is None else images.targets

    @override
    def examples(self) -> Batch:
        """Return two images of the last split as the model receives them, (2, C, H, W) uint8, and their targets."""
        split = list(self.splits)[-1]
        return self.fetch(split, torch.tensor([0, min(1, len(self.splits[split]) - 1)]))

    @override
    def digest(self) -> str:
        """Return 8 hexadecimal digits that change with image size, targets, and pixels sampled from each split."""
        header = f"{self.name} {self.image_size} {self.channels}"
        return images_digest(header, map(self.as_identified, self.splits), self.crop) if self.splits else ""

    @override
    def split_digest(self, split: str) -> str:
        """Return 8 hexadecimal digits that change with image size, targets and sampled pixels of a split."""
        return images_digest("", [self.as_identified(split)], self.crop)

    def as_identified(self, split: str) -> Images:
        """Return the images of a split in the form from which its digest is computed."""
        return self.splits[split]

    def batches(self, split: str, ranks: int) -> EpochBatches:
        """Return the batches of one of `ranks` processes in an epoch; known after `setup`."""
        return EpochBatches(len(self.splits[split]), self.batch_size, seed=self.split_seed, ranks=ranks)

    @override
    def batch_counts(self, ranks: int) -> dict[str, int]:
        return {split: len(self.batches(split, ranks)) for split in self.splits}

    @override
    def check_batch_size(self, ranks: int) -> None:
        check_batch_size(self.batch_size, self.sizes(), ranks)

    @override
    def share_splits(self, other: DescribedDataModule) -> None:
        assert isinstance(other, ImageSplits)
        self.splits = other.splits

    def with_channels(self, images: Tensor) -> Tensor:
        """Return images (N, 1 or 3, H, W) with `channels` channels; colours become grey as in Pillow."""
        if images.shape[1] > self.channels:
            return to_grey(images)
        return images.expand(-1, self.channels, -1, -1)
