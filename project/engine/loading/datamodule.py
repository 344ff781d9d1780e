"""The base class of images with targets of any kind: the loaders of their splits, and the position of training."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from project.engine.compat import batches_done
from project.engine.loading.batches import EpochBatches, batches_taken
from project.engine.loading.counter_rng import global_seed
from project.engine.loading.image_splits import ImageSplits
from project.engine.loading.images import Batch, ImageArray
from project.engine.loading.loader import BatchLoader, LoaderState, check_same_batches


class ImageDataModule(ImageSplits):
    """Square images with targets, in the splits train, val and test; batches are uint8 (N, C, H, W) and (N, ...).

    A dataset is a subclass that sets the attributes in `declared` and implements `load`; its arguments are those of
    `ImageSplits`.
    """

    _train_loader: BatchLoader | None = None
    _stopped_at: LoaderState | None = None

    @override
    def setup(self, stage: str) -> None:
        """Load the splits once, for all stages, and check that the augmentation suits their targets."""
        super().setup(stage)
        if self.augmentation.mixes:
            self.to_mixable(self.fetch("train", torch.tensor([0]))[1])

    def to_mixable(self, targets: Tensor) -> Tensor:
        """Return targets (N, ...) as floats that mixup and CutMix can mix.

        Raises:
            ValueError: They are masks or integers, which have no mean.
        """
        if targets.ndim > 2 or not targets.is_floating_point():
            option = "mixup" if self.augmentation.mixup else "cutmix"
            shape = ", ".join(["N", *map(str, targets.shape[1:])])
            raise ValueError(
                f"data.augmentation.{option}: got {getattr(self.augmentation, option)}, but the targets are "
                f"{targets.dtype} of shape ({shape}), and only float targets (N,) or (N, K) can be mixed; it must be 0"
            )
        return targets

    def augment(self, images: Tensor, targets: Tensor, keys: Tensor) -> Batch:
        """Augment training images (N, C, H, W) uint8 and their targets, on the device; see `Augmentation`."""
        if self.augmentation.mixes:
            targets = self.to_mixable(targets)
        return self.augmentation(images, targets, keys)

    @override
    def check_same_batches(self, state: Mapping[str, Any], ranks: int, limit: float) -> None:
        if state:
            sampler, targets = self.batches("train", ranks), self.splits["train"].targets
            check_same_batches(cast(LoaderState, state), sampler, targets, batches_taken(limit, len(sampler)))

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
        if self._train_loader is None:
            return {}
        state = self._train_loader.state_dict()
        if self.trainer is not None and state["epoch"] == self.trainer.current_epoch:
            # An error may end training within a step; a resumed run repeats its batch.
            state = state | {"batches": min(state["batches"], batches_done(self.trainer))}
        return dict(state)

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
        return self.with_channels(images), targets

    def _loader(self, split: str, *, train: bool = False) -> BatchLoader:
        images, trainer = self.splits[split], self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
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
            device=device,
            limit=batches_taken(trainer.limit_train_batches, len(sampler)) if train and trainer else None,
            resident=images.to(device) if self.on_device and isinstance(images, ImageArray) else None,
        )
