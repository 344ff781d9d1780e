"""The base class of images with targets of any kind: splits, loaders, and the position of a resumed training."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from project.engine.data import BatchCount, DescribedDataModule
from project.engine.loading.augmentation import Augmentation
from project.engine.loading.batches import EpochBatches
from project.engine.loading.counter_rng import global_seed
from project.engine.loading.crop import Crop
from project.engine.loading.images import Batch, Images, fetch
from project.engine.loading.loader import BatchLoader, LoaderState, check_same_batches
from project.engine.loading.ranges import check_range
from project.engine.loading.validation import split_off
from project.engine.loading.workers import Workers

Split = Literal["train", "val", "test"]
_IMAGES_IN_DIGEST = 64
_LARGEST_SIDE = 4096
_DEFAULT_AUGMENTATION, _DEFAULT_WORKERS = Augmentation(), Workers()


class ImageDataModule(DescribedDataModule):
    """Square images with targets, in the splits train, val and test; batches are uint8 (N, C, H, W) and (N, ...).

    A dataset is a subclass that sets the attributes in `declared` and implements `load`.

    Args:
        batch_size: Images per step and device.
        val_fraction: Share of the training images kept for validation if there is no val, in (0, 1).
        split_seed: Seed of this choice and of the order of training images.
        image_size: Side of the images in pixels; None keeps the dataset's size.
        channels: Number of channels; 3 repeats grey images into three channels, None keeps the dataset's number.
        augmentation: Random changes of training images.
        workers: Threads or processes that load images.
    """

    declared: ClassVar[tuple[str, ...]] = ("name", "native_size", "native_channels", "native_mean", "native_std")
    earlier_names: ClassVar[Mapping[str, str]] = {
        **{name: f"augmentation.{name}" for name in Augmentation.__dataclass_fields__},
        "num_workers": "workers.num",
        "prefetch_factor": "workers.prefetch_factor",
        "persistent_workers": "workers.persistent",
        "pin_memory": "workers.pin_memory",
        "worker_timeout_s": "workers.timeout_s",
    }
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
    ) -> None:
        super().__init__()
        for attribute in self.declared:
            if not hasattr(self, attribute):
                raise ValueError(f"{type(self).__name__} does not set {attribute}; see its base classes")
        self.batch_size, self.val_fraction, self.split_seed = batch_size, val_fraction, split_seed
        self.image_size = self.native_size if image_size is None else image_size
        self.channels = channels or self.native_channels
        self.augmentation, self.workers = augmentation, workers
        self._check_options()
        self.crop = Crop(self.image_size, augmentation.random_resized_crop)
        self.source = self.source or self.name
        self.splits: dict[Split, Images] = {}
        self.skipped: dict[Split, int] = {}
        self.val_is_from_train = False
        self._train_loader: BatchLoader | None = None
        self._stopped_at: LoaderState | None = None

    def _check_options(self) -> None:
        check_range("data.batch_size", self.batch_size, 1)
        check_range("data.split_seed", self.split_seed, 0)
        check_range("data.image_size", self.image_size, 1, _LARGEST_SIDE)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"data.val_fraction: got {self.val_fraction}; it must be between 0 and 1, both excluded")
        if (side := self.augmentation.cutout) > self.image_size:
            raise ValueError(
                f"data.augmentation.cutout: got {side}, but images have {self.image_size} pixels; it must be "
                f"{self.image_size} or less"
            )
        if self.channels < self.native_channels:
            raise ValueError(
                f"data.channels: got {self.channels}; {self.name} has colour images, which keep their channels; it "
                f"must be {self.native_channels}"
            )

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
        return self.native_mean * (self.channels // len(self.native_mean))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, for images scaled to [0, 1]."""
        return self.native_std * (self.channels // len(self.native_std))

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
        train, val, test = self.load("train"), self.load("val"), self.load("test")
        assert train is not None
        self.check_targets("train", train.targets)
        self.val_is_from_train = val is None
        if val is None:
            places = self.split_off(train.targets)
            if not len(places[1]):
                raise ValueError(
                    f"data.val_fraction: none of the {len(train):,} images can be kept for validation, because no "
                    "class has two; add images"
                )
            train, val = (train.subset(part) for part in places)
        splits: dict[Split, Images] = {"train": train, "val": val}
        if test is not None:
            splits["test"] = test
        for name, images in splits.items():
            self.check_targets(name, images.targets)
        if self.augmentation.mixed_by:
            self.to_mixable(fetch(train, torch.tensor([0]), self.crop)[1])
        self.splits = splits

    def check_targets(self, split: Split, targets: Tensor) -> None:
        """Raise ValueError if the targets (N, ...) of a split are not those of this data; a subclass may do so."""

    def split_off(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the images of train and of val at random; returns their indices, int64."""
        return split_off(torch.zeros(len(targets), dtype=torch.int64), self.val_fraction, self.split_seed)

    def to_mixable(self, targets: Tensor) -> Tensor:
        """Return targets as floats that mixup and CutMix can mix.

        Raises:
            ValueError: They have no mean, such as masks and integers.
        """
        if targets.ndim > 2 or not targets.is_floating_point():
            option = self.augmentation.mixed_by
            raise ValueError(
                f"data.augmentation.{option}: got {getattr(self.augmentation, str(option))}, but targets of "
                f"{self.name} are {targets.dtype} {('N', *targets.shape[1:])}, and only numbers (N,) or (N, K), float, "
                "can be mixed; it must be 0".replace("'", "")
            )
        return targets

    def augment(self, images: Tensor, targets: Tensor, keys: Tensor) -> Batch:
        """Augment training images (N, C, H, W) uint8 and their targets, on the device; see `Augmentation`."""
        if self.augmentation.mixed_by:
            targets = self.to_mixable(targets)
        return self.augmentation(images, targets, keys)

    def fetch(self, split: Split, indices: Tensor) -> Batch:
        """Return images of a split as the model receives them, and their targets, without augmentation."""
        images, targets = fetch(self.splits[split], indices, self.crop)
        return self._repeat(images), targets

    @override
    def sizes(self) -> dict[str, int]:
        return {split: len(images) for split, images in self.splits.items()}

    @override
    def found(self) -> list[str]:
        """Return a line with the number of images in each split; known after `setup`."""
        parts = [self.name, *(f"{split} {self.size_text(split)}" for split in self.splits)]
        return [", ".join(parts if self.has_test else [*parts, "no test (scored on val)"])]

    def size_text(self, split: Split) -> str:
        """Return the number of images in a split as text."""
        origin = " taken from train" if split == "val" and self.val_is_from_train else ""
        return f"{len(self.splits[split]):,}{origin}"

    @override
    def examples(self) -> Tensor:
        """Return two images of the last split as the model receives them, (2, C, H, W) uint8."""
        split = list(self.splits)[-1]
        return self.fetch(split, torch.tensor([0, min(1, len(self.splits[split]) - 1)]))[0]

    @override
    def digest(self) -> str:
        """Return 8 hexadecimal digits that change with image size, targets, and pixels sampled from each split."""
        if not self.splits:
            return ""
        hashed = hashlib.sha256(f"{self.name} {self.image_size} {self.channels}".encode())
        with torch.random.fork_rng(devices=[]):  # A user's dataset may draw random numbers.
            torch.manual_seed(0)
            for split in self.splits.values():
                sampled = torch.arange(0, len(split), -(-len(split) // _IMAGES_IN_DIGEST))
                images, _ = fetch(split, sampled, self.crop)
                hashed.update(split.targets.numpy().tobytes() + images.numpy().tobytes())
        return hashed.hexdigest()[:8]

    def batches(self, split: Split, ranks: int) -> EpochBatches:
        """Return the batches of one of `ranks` processes in an epoch; known after `setup`."""
        return EpochBatches(len(self.splits[split]), self.batch_size, seed=self.split_seed, ranks=ranks)

    @override
    def batch_counts(self, ranks: int) -> dict[str, BatchCount]:
        counted = {split: self.batches(split, ranks) for split in self.splits}
        return {split: BatchCount(len(batches), batches.smallest) for split, batches in counted.items()}

    @override
    def check_batch_size(self, ranks: int) -> None:
        images = len(self.splits["train"])
        if self.batch_size * ranks > images:
            each = f" on each of {ranks} devices" if ranks > 1 else ""
            raise ValueError(
                f"data.batch_size: got {self.batch_size}{each}, but train has {images:,} images; "
                f"use {images // ranks} or less"
            )
        for name, split in self.splits.items():
            if len(split) < ranks:
                raise ValueError(
                    f"--devices: got {ranks}, but {name} has {len(split)} images; each device needs at least one"
                )

    @override
    def check_same_batches(self, state: Mapping[str, Any], ranks: int, limit: float) -> None:
        if state:
            sampler, targets = self.batches("train", ranks), self.splits["train"].targets
            check_same_batches(cast(LoaderState, state), sampler, targets, _batches(limit, len(sampler)))

    @override
    def share_splits(self, other: DescribedDataModule) -> None:
        assert isinstance(other, ImageDataModule)
        self.splits = other.splits

    @override
    def train_dataloader(self) -> BatchLoader:
        """Return augmented batches of train, in a new order in each epoch; a resumed run continues where it stopped."""
        self._train_loader = self._loader("train", train=True)
        if self._stopped_at is not None:
            self._train_loader.load_state_dict(self._stopped_at)
        return self._train_loader

    @override
    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    @override
    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position of training, for the checkpoint.

        Lightning saves the state of a loader too, but restores it only if the loader is made after the checkpoint is
        read. A schedule that asks for the number of steps makes the loader earlier.
        """
        return {} if self._train_loader is None else dict(self._train_loader.state_dict())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from this position, in a fit.

        Raises:
            ValueError: The images, or mid-epoch the batches, differ from those of the stopped run.
        """
        if state_dict and self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._stopped_at = cast(LoaderState, state_dict)
            if self._train_loader is not None:
                self._train_loader.load_state_dict(self._stopped_at)

    def _finish(self, images: Tensor, targets: Tensor, keys: Tensor | None) -> Batch:
        if keys is not None:
            images, targets = self.augment(images, targets, keys)
        return self._repeat(images), targets

    def _repeat(self, images: Tensor) -> Tensor:
        return images.expand(-1, self.channels, -1, -1)

    def _loader(self, split: Split, *, train: bool = False) -> BatchLoader:
        images, trainer = self.splits[split], self.trainer
        sampler = EpochBatches(
            len(images),
            self.batch_size,
            shuffle=train,
            same_order=getattr(trainer, "overfit_batches", 0) > 0,
            seed=self.split_seed,
            rank=trainer.global_rank if trainer else 0,
            ranks=trainer.world_size if trainer else 1,
        )
        return BatchLoader(
            images,
            sampler,
            self.crop,
            self._finish,
            seed=global_seed() if train else None,
            workers=self.workers.per_device(trainer.num_devices if trainer else 1),
            device=trainer.strategy.root_device if trainer else None,
            limit=_batches(trainer.limit_train_batches, len(sampler)) if train and trainer else None,
        )


def _batches(limit: float, of: int) -> int:
    """Return how many of `of` batches the trainer takes per epoch: `limit` is a number, or as a float a share."""
    return min(of, limit) if isinstance(limit, int) else int(of * limit)
