"""The base class of all datasets: the validation split, the loaders, and the properties that the model needs."""

import hashlib
from abc import abstractmethod
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.transforms.v2 import functional

from project.data.found import count_line
from project.data.validation import split_off
from project.engine.loading import (
    BatchLoader,
    EpochBatches,
    Images,
    LoaderState,
    Workers,
    check_same_batches,
    cutmix,
    cutout,
    global_seed,
    mixup,
    random_crop,
    random_flip,
    random_resized_crop,
)
from project.engine.runtime.devices import usable_cores

Split = Literal["train", "val", "test"]
_IMAGES_IN_DIGEST = 64
_LARGEST_SIDE = 4096


class ImageDataModule(LightningDataModule):
    """Square images in the splits train, val and test; batches are uint8 (N, C, H, W) and int64 (N,).

    A dataset is a subclass that sets the attributes below and implements `load`.

    Args:
        batch_size: Images per step and device.
        val_fraction: Share of the training images, and of each class, kept for validation without val, in (0, 1).
        split_seed: Seed of this choice and of the order of training images.
        image_size: Side of the images in pixels; None keeps the dataset's size.
        channels: Number of channels; 3 repeats grey images into three channels, None keeps the dataset's number.
        crop_padding: Largest random shift of training images in pixels; 0 disables it.
        horizontal_flip: Mirror each training image with probability one half.
        random_resized_crop: Take a random part of each training image, of at least this share of its area, in
            (0, 1]; ImageNet's usual 0.08 is for long trainings. None disables it.
        cutout: Side in pixels of a square that is blacked out in each training image; 0 disables it.
        mixup: Blend training images in pairs, with ratios from Beta(mixup, mixup); 0 disables it.
        cutmix: Paste boxes between training images, with areas from Beta(cutmix, cutmix); if mixup is also set,
            mixup comes first; 0 disables it.
        num_workers: Threads that decode files, or processes that load a torch dataset, per device; None uses all
            cores. Images in memory need none.
        prefetch_factor: Batches kept ready, in total for threads or by each process.
        persistent_workers: Keep loading processes between epochs.
        pin_memory: Put batches into page-locked memory for asynchronous copies, if training uses a GPU.
        worker_timeout_s: Longest wait for a batch in seconds; after it, training ends with an error.
    """

    name: str
    native_size: int
    native_channels: int
    native_mean: tuple[float, ...]
    native_std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
        random_resized_crop: float | None = None,
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        worker_timeout_s: int = 120,
    ) -> None:
        super().__init__()
        for attribute in ("name", "native_size", "native_channels", "native_mean", "native_std", "class_names"):
            if not hasattr(self, attribute):
                raise ValueError(f"{type(self).__name__} sets no {attribute}; see ImageDataModule in project/data")
        side = self.native_size if image_size is None else image_size
        for option, value, least in (
            ("batch_size", batch_size, 1),
            ("split_seed", split_seed, 0),
            ("image_size", side, 1),
            ("crop_padding", crop_padding, 0),
            ("cutout", cutout, 0),
            ("mixup", mixup, 0),
            ("cutmix", cutmix, 0),
            ("num_workers", num_workers or 0, 0),
            ("prefetch_factor", prefetch_factor, 1),
            ("worker_timeout_s", worker_timeout_s, 1),
        ):
            if value < least:
                raise ValueError(f"data.{option}: got {value}; it must be {least} or more")
        if side > _LARGEST_SIDE:
            raise ValueError(f"data.image_size: got {side}; it must be {_LARGEST_SIDE} or less")
        if cutout > side:
            raise ValueError(f"data.cutout: got {cutout}, but images have {side} pixels; it must be {side} or less")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction: got {val_fraction}; it must be between 0 and 1, both excluded")
        if random_resized_crop is not None and not 0 < random_resized_crop <= 1:
            raise ValueError(f"data.random_resized_crop: got {random_resized_crop}; it must be in (0, 1]")
        if channels == 1 and self.native_channels == 3:
            raise ValueError(
                f"data.channels: got 1; {self.name} has colour images, which keep their channels; it must be 3"
            )
        self.batch_size, self.val_fraction, self.split_seed = batch_size, val_fraction, split_seed
        self.image_size = image_size or self.native_size
        self.channels = channels or self.native_channels
        self.crop_padding, self.horizontal_flip = crop_padding, horizontal_flip
        self.random_resized_crop, self.cutout = random_resized_crop, cutout
        self.mixup, self.cutmix = mixup, cutmix
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.persistent_workers, self.pin_memory = persistent_workers, pin_memory
        self.worker_timeout_s = worker_timeout_s
        self.splits: dict[Split, Images] = {}
        self.skipped: dict[Split, int] = {}
        self._val_from_train = False
        self._train_loader: BatchLoader | None = None
        self._stopped_at: LoaderState | None = None

    @abstractmethod
    def load(self, split: Split) -> Images | None:
        """Open the images of a split, or return None if the dataset has no such split.

        Raises:
            FileNotFoundError: The images are not there.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, for images scaled to [0, 1]."""
        return self.native_mean * (self.channels // len(self.native_mean))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, for images scaled to [0, 1]."""
        return self.native_std * (self.channels // len(self.native_std))

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; known after `setup`."""
        return "test" in self.splits

    def setup(self, stage: str) -> None:  # all stages share the splits
        """Load the splits once; if the dataset has no validation split, take it from train."""
        if self.splits:
            return
        train, val, test = self.load("train"), self.load("val"), self.load("test")
        assert train is not None
        self._check_labels("train", train)
        self._val_from_train = val is None
        if val is None:
            places = split_off(train.labels, self.val_fraction, self.split_seed)
            if not len(places[1]):
                raise ValueError(
                    f"data.val_fraction: no class has two images, so none of the {len(train):,} images can be "
                    "kept for validation; add images"
                )
            train, val = (train.subset(part) for part in places)
        self.splits = {"train": train, "val": val}
        if test is not None:
            self.splits["test"] = test
        for name, images in self.splits.items():
            self._check_labels(name, images)

    def _check_labels(self, split: Split, images: Images) -> None:
        least, most = images.labels.aminmax()
        if least < 0 or most >= self.num_classes:
            raise ValueError(
                f"{split} has labels from {least} to {most}; for the {self.num_classes} class_names of "
                f"{type(self).__name__} they go from 0 to {self.num_classes - 1}"
            )

    def found(self) -> list[str]:
        """Return lines on the images found; known after `setup`."""
        labels: dict[str, Tensor] = {split: images.labels for split, images in self.splits.items()}
        return [count_line(self.name, self.class_names, labels, val_from_train=self._val_from_train)]

    def examples(self) -> Tensor:
        """Return two images of the last split as the model receives them, (2, C, H, W) uint8."""
        split = list(self.splits.values())[-1]
        images, _ = split[torch.tensor([0, min(1, len(split) - 1)])]
        return self.to_model_input(images)

    def check_batch_size(self, ranks: int) -> None:
        """Raise ValueError if a step of all ranks needs more images than train has."""
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

    def batches(self, split: Split, ranks: int) -> EpochBatches:
        """Return the batches of one of `ranks` processes in an epoch; known after `setup`."""
        return EpochBatches(len(self.splits[split]), self.batch_size, ranks=ranks)

    def check_same_batches(self, state_dict: dict[str, Any], ranks: int, limit: float) -> None:
        """Check that the position of a stopped run fits the current batches.

        Args:
            state_dict: State from a checkpoint; empty if it has none.
            ranks: Number of processes.
            limit: The trainer's `limit_train_batches`.

        Raises:
            ValueError: The run would resume with other images, or mid-epoch with other batches.
        """
        if state_dict:
            train = self.splits["train"]
            sampler = EpochBatches(len(train), self.batch_size, seed=self.split_seed, ranks=ranks)
            check_same_batches(cast(LoaderState, state_dict), sampler, train.labels, _batches(limit, len(sampler)))

    def digest(self) -> str:
        """Return 8 hexadecimal digits that change with image size, labels, and pixels sampled from each split."""
        hashed = hashlib.sha256(f"{self.name} {self.image_size} {self.channels}".encode())
        with torch.random.fork_rng(devices=[]):  # A user's dataset may draw random numbers.
            torch.manual_seed(0)
            for split in self.splits.values():
                images, _ = split[torch.arange(0, len(split), -(-len(split) // _IMAGES_IN_DIGEST))]
                hashed.update(split.labels.numpy().tobytes() + images.numpy().tobytes())
        return hashed.hexdigest()[:8]

    def train_dataloader(self) -> BatchLoader:
        """Return augmented batches of train, in a new order in each epoch; a resumed run continues where it stopped."""
        self._train_loader = self._loader("train", train=True)
        if self._stopped_at is not None:
            self._train_loader.load_state_dict(self._stopped_at)
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of training, for the checkpoint.

        Lightning saves the state of a loader too, but restores it only if the loader is made after the checkpoint is
        read. A schedule that asks for the number of steps makes the loader earlier.
        """
        return {} if self._train_loader is None else dict(self._train_loader.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from this position, in a fit.

        Raises:
            ValueError: The images, or mid-epoch the batches, differ from those of the stopped run.
        """
        if state_dict and self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._stopped_at = cast(LoaderState, state_dict)
            if self._train_loader is not None:
                self._train_loader.load_state_dict(self._stopped_at)

    def val_dataloader(self) -> BatchLoader:
        """Return the batches of val."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Return the batches of test."""
        return self._loader("test")

    def to_model_input(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W) uint8 to `image_size` and repeat them into `channels`."""
        return self._repeat(self._resize(images))

    def augment(self, images: Tensor, labels: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Augment training images (N, C, H, W) uint8, on the device; mixed images have labels (N, classes) float."""
        if self.crop_padding:
            images = random_crop(images, keys, self.crop_padding)
        if self.horizontal_flip:
            images = random_flip(images, keys)
        if self.cutout:
            images = cutout(images, keys, self.cutout)
        if self.mixup or self.cutmix:
            labels = F.one_hot(labels, self.num_classes).float()
        if self.mixup:
            images, labels = mixup(images, labels, keys, self.mixup)
        if self.cutmix:
            images, labels = cutmix(images, labels, keys, self.cutmix)
        return images, labels

    def _resize(self, images: Tensor) -> Tensor:
        if images.shape[2:] == (self.image_size, self.image_size):
            return images
        resized: Tensor = functional.resize(images, [self.image_size, self.image_size], antialias=True)
        return resized

    def _repeat(self, images: Tensor) -> Tensor:
        return images.expand(-1, self.channels, -1, -1)

    def _loader(self, split: Split, *, train: bool = False) -> BatchLoader:
        images, trainer = self.splits[split], self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        device = trainer.strategy.root_device if trainer else torch.device("cpu")

        def finish(batch: Tensor, labels: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
            if keys is None:
                return self.to_model_input(batch), labels
            if self.random_resized_crop and not images.crops:
                batch = random_resized_crop(batch, keys, self.image_size, self.random_resized_crop)
            batch, labels = self.augment(self._resize(batch), labels, keys)
            return self._repeat(batch), labels

        sampler = EpochBatches(
            len(images),
            self.batch_size,
            shuffle=train,
            same_order=getattr(trainer, "overfit_batches", 0) > 0,
            seed=self.split_seed,
            rank=rank,
            ranks=ranks,
        )
        return BatchLoader(
            images,
            sampler,
            finish,
            seed=global_seed() if train else None,
            workers=Workers(
                num_workers=self.threads_per_device(trainer.num_devices if trainer else 1)
                if images.needs_workers
                else 0,
                prefetch_factor=self.prefetch_factor,
                persistent_workers=self.persistent_workers,
                pin_memory=self.pin_memory and device.type == "cuda",
                timeout_s=self.worker_timeout_s,
            ),
            device=device,
            limit=_batches(trainer.limit_train_batches, len(sampler)) if train and trainer else None,
        )

    def threads_per_device(self, devices: int = 1) -> int:
        """Return the number of threads or processes that load for one of `devices` on this machine."""
        return max(1, usable_cores() // devices) if self.num_workers is None else self.num_workers


def _batches(limit: float, of: int) -> int:
    """Return how many of `of` batches the trainer takes per epoch: `limit` is a number, or as a float a share."""
    return min(of, limit) if isinstance(limit, int) else int(of * limit)
