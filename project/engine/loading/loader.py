"""The loader that the trainer iterates over: the batches of each epoch, on the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypedDict
from zlib import crc32

import torch
from torch import Tensor

from project.engine.loading.batches import EpochBatches
from project.engine.loading.counter_rng import sample_keys
from project.engine.loading.crop import Crop
from project.engine.loading.images import Batch, Fetched, ImageArray, Images, Request
from project.engine.loading.prefetch_to_device import on_device
from project.engine.loading.wait import WaitTime
from project.engine.loading.workers import Workers

Finish = Callable[[Tensor, Tensor, Tensor | None], Batch]
"""Maps cropped images and targets, both on the device, and keys to the input of the model."""


class LoaderState(TypedDict):
    """The position of training, the same on every rank, and the settings that determine the remaining batches.

    epoch: Counted from 0.
    batches: Number of batches of this epoch that training has taken.
    of: Number of batches in the epoch.
    limit: Number of batches after which the epoch ends.
    images: Number of images in train.
    ranks: Number of processes.
    seed: Seed of the order.
    labels: Checksum of the targets of train; it changes if train has other images.
    """

    epoch: int
    batches: int
    of: int
    limit: int
    images: int
    ranks: int
    seed: int
    labels: int


class BatchLoader:
    """Batches of a store, ready for the model. Measures waiting, and resumes a stopped epoch.

    Args:
        images: The store.
        sampler: Selects the images of each batch. Lightning sets its epoch.
        crop: The part of each image that the model receives.
        finish: Last step on the device: augmentation.
        seed: Seed of all random draws for an image; None for no randomness.
        workers: Threads or processes that fetch batches in advance.
        device: Device of the model.
        limit: Number of batches after which the trainer ends an epoch; None means all.
        resident: The images in the memory of the device, where order and keys of an epoch are copied at its start; None
            copies each batch.
    """

    def __init__(
        self,
        images: Images,
        sampler: EpochBatches,
        crop: Crop,
        finish: Finish,
        *,
        seed: int | None = None,
        workers: Workers | None = None,
        device: torch.device | None = None,
        limit: int | None = None,
        resident: ImageArray | None = None,
    ) -> None:
        self.images, self.sampler, self.crop, self.finish, self.seed = images, sampler, crop, finish, seed
        self.device, workers = device or torch.device("cpu"), workers or Workers(num=0)
        self._resident = resident
        pin_memory = workers.pin_memory and self.device.type == "cuda" and resident is None
        self.workers = replace(workers, pin_memory=pin_memory)
        self.limit = limit
        self.batch_sampler = None  # Lightning expects both attributes, because torch's DataLoader has them.
        self._wait = WaitTime(self.device)
        self._checksum = _checksum(images.targets)
        self._done: LoaderState | None = None
        self._start_from: LoaderState | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def advice(self) -> str:
        """Advice for a training that waits for batches."""
        return self.images.advice

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the sampler's epoch, beginning at the position of `load_state_dict`."""
        epoch = self.sampler.epoch
        first = self._first_batch(epoch)
        source = self.images if self._resident is None else self._resident
        fetched = source.stream(islice(self._requests(epoch), first, None), self.workers, self.crop)
        self._wait.asked()
        if self._resident is None:
            batches = on_device(fetched, self._finished, self.device)
        else:  # Nothing is copied, so the stream of the model makes the batches.
            batches = map(self._finished, fetched)
        for number, batch in enumerate(batches, first + 1):
            self._wait.handed_over()
            self._done = self._reached(epoch, number)
            yield batch
            self._wait.asked()

    @property
    def wait_s(self) -> float:
        """Time in seconds that the device has waited for batches since the loader was made."""
        return self._wait.seconds

    @property
    def _iterator(self) -> None:
        """Lightning sets it to None to end the workers of a loader, as it does with a DataLoader."""

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self.images.close()

    def state_dict(self) -> LoaderState:
        """Return how many batches the training loop has taken, without those fetched in advance."""
        return self._done or self._reached(0, 0)

    def load_state_dict(self, state: LoaderState) -> None:
        """Resume at this position if the next epoch is the epoch of the state.

        Raises:
            ValueError: See `check_same_batches`.
        """
        check_same_batches(state, self.sampler, self.images.targets, self.limit)
        self._done = self._start_from = state  # A checkpoint may be saved before the next batch.

    def _reached(self, epoch: int, batches: int) -> LoaderState:
        return _state(self.sampler, self._checksum, epoch, batches, self.limit)

    def _first_batch(self, epoch: int) -> int:
        start, self._start_from = self._start_from, None
        return start["batches"] if start is not None and start["epoch"] == epoch else 0

    def _requests(self, epoch: int) -> Iterator[Request]:
        keys = None if self.seed is None else sample_keys(self.seed, epoch, torch.arange(self.sampler.size))
        batches: Iterable[Tensor] = self.sampler
        if self._resident is not None:
            batches = torch.cat([*self.sampler]).to(self.device).tensor_split(len(self.sampler))
            keys = None if keys is None else keys.to(self.device)
        for indices in batches:
            yield Request(indices, None if keys is None else keys[indices])

    def _finished(self, fetched: Fetched) -> Batch:
        return self.finish(*fetched.cropped(), fetched.keys)


def check_same_batches(state: LoaderState, sampler: EpochBatches, targets: Tensor, limit: int | None = None) -> None:
    """Refuse to resume with other images, or within an epoch with other batches.

    Args:
        state: Where training was stopped.
        sampler: Batches as they would be now.
        targets: Targets of train, (N, ...).
        limit: Number of batches after which an epoch would end now; None means all.

    Raises:
        ValueError: The batches differ; the message names the difference.
    """
    now = _state(sampler, _checksum(targets), state["epoch"], state["batches"], limit)
    was = now | state
    if was["labels"] != now["labels"]:
        raise ValueError(
            f"--resume: train had {was['images']:,} images and now has {now['images']:,}, not all of them the same; "
            "use the files, data.split_seed and data.val_fraction that the run had, or start again without --resume"
        )
    if not 0 < was["batches"] < was["limit"]:
        return  # the next epoch may have other batches
    if was | {"limit": now["limit"]} != now:
        then, would = (
            f"{s['of']} batches of {s['images']:,} images on {s['ranks']} devices with data.split_seed {s['seed']}"
            for s in (was, now)
        )
        raise ValueError(
            f"--resume: the run was stopped in an epoch of {then}, which now would be {would}; use the data, "
            "data.batch_size, data.split_seed and devices of the run"
        )
    if was["batches"] >= now["limit"]:
        raise ValueError(
            f"--resume: the run was stopped after {was['batches']} batches of an epoch, which now would end after "
            f"{now['limit']}; give trainer.limit_train_batches {was['batches'] + 1} or more"
        )


def _checksum(targets: Tensor) -> int:
    return crc32(targets.numpy().tobytes())


def _state(sampler: EpochBatches, checksum: int, epoch: int, batches: int, limit: int | None) -> LoaderState:
    of = len(sampler)
    return {
        "epoch": epoch, "batches": batches, "of": of, "limit": of if limit is None else min(of, limit),
        "images": sampler.size, "ranks": sampler.ranks, "seed": sampler.seed, "labels": checksum,
    }  # fmt: skip
