"""One epoch after the other as batches on the device: what the trainer iterates over."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypedDict
from zlib import crc32

import torch
from torch import Tensor

from project.engine.loading.batches import EpochBatches
from project.engine.loading.counter_rng import sample_keys
from project.engine.loading.images import Batch, Fetched, Images, Request, Workers
from project.engine.loading.prefetch_to_device import on_device
from project.engine.loading.wait import Clock, WaitTime, clock_of

Finish = Callable[[Tensor, Tensor, Tensor | None], Batch]
"""From images (N, C, H, W) and labels (N,), both on the device, and keys to what the model gets."""


class LoaderState(TypedDict):
    """How far training has come, the same on every rank, and what would make the batches that are left others.

    epoch: Counted from 0.
    batches: Those of it that training has taken.
    of: All of them.
    limit: Those after which the epoch ends.
    images: Those in train.
    ranks: Number of processes.
    seed: Of their order.
    labels: Checksum of the labels of train, which change when other images are chosen for it.
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
    """Batches of a store, ready for the model; it measures waiting and goes on where a run was stopped.

    Args:
        images: The store.
        sampler: Which images make which batch. Lightning tells it the epoch.
        finish: Last step on the device: resizing and augmentation.
        seed: Seed of everything random about an image; None for nothing random.
        workers: Who works ahead.
        device: Where the model is.
        limit: Batches after which the trainer ends an epoch; None is all of them.
        clock: Of the device, by which waiting is measured; None is the one of its kind.
    """

    def __init__(
        self,
        images: Images,
        sampler: EpochBatches,
        finish: Finish,
        *,
        seed: int | None = None,
        workers: Workers | None = None,
        device: torch.device | None = None,
        limit: int | None = None,
        clock: Clock[Any] | None = None,
    ) -> None:
        self.images, self.sampler, self.finish, self.seed = images, sampler, finish, seed
        self.workers, self.device = workers or Workers(), device or torch.device("cpu")
        self.limit = limit
        self.batch_sampler = None  # Lightning looks for both, as torch's DataLoader has them
        self._wait = WaitTime(clock or clock_of(self.device))
        self._labels = _checksum(images.labels)
        self._done: LoaderState | None = None
        self._start_from: LoaderState | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def advice(self) -> str:
        """What to try when training waits for batches."""
        return self.images.advice

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the sampler's epoch, from where `load_state_dict` said."""
        epoch = self.sampler.epoch
        first = self._first_batch(epoch)
        fetched = self.images.stream(islice(self._requests(epoch), first, None), self.workers)
        self._wait.asked()
        for number, batch in enumerate(on_device(fetched, self._finished, self.device), first + 1):
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
        """Set to None by Lightning when it is done with a loader, as that is how a DataLoader ends its workers."""

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self.images.close()

    def state_dict(self) -> LoaderState:
        """How many batches the training loop has taken, whatever has been fetched ahead."""
        return self._done or self._reached(0, 0)

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on from there when the epoch of the state is the next one.

        Raises:
            ValueError: See `check_goes_on`.
        """
        check_goes_on(state, self.sampler, self.images.labels, self.limit)
        self._done = self._start_from = state  # a checkpoint may be saved before the next batch

    def _reached(self, epoch: int, batches: int) -> LoaderState:
        return _state(self.sampler, self._labels, epoch, batches, self.limit)

    def _first_batch(self, epoch: int) -> int:
        start, self._start_from = self._start_from, None
        return start["batches"] if start is not None and start["epoch"] == epoch else 0

    def _requests(self, epoch: int) -> Iterator[Request]:
        keys = None if self.seed is None else sample_keys(self.seed, epoch, torch.arange(self.sampler.size))
        for indices in self.sampler:
            yield Request(indices, None if keys is None else keys[indices])

    def _finished(self, fetched: Fetched) -> Batch:
        return self.finish(*fetched)


def check_goes_on(state: LoaderState, sampler: EpochBatches, labels: Tensor, limit: int | None = None) -> None:
    """Refuse to resume with other images, or within an epoch with other batches.

    Args:
        state: Where training was stopped.
        sampler: Batches as they would be now.
        labels: Labels of train, (N,) int64.
        limit: Batches after which an epoch would end now; None is all of them.

    Raises:
        ValueError: It says what is other.
    """
    now = _state(sampler, _checksum(labels), state["epoch"], state["batches"], limit)
    was = now | state
    if was["labels"] != now["labels"]:
        raise ValueError(
            f"--resume: train had {was['images']:,} images and now has {now['images']:,}, not all of them the same; "
            "use the files, data.split_seed and data.val_fraction that the run had, or start anew without --resume"
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
            "data.batch_size, data.split_seed and devices that it had"
        )
    if was["batches"] >= now["limit"]:
        raise ValueError(
            f"--resume: the run was stopped after {was['batches']} batches of an epoch, which now would end after "
            f"{now['limit']}; give trainer.limit_train_batches {was['batches'] + 1} or more"
        )


def _checksum(labels: Tensor) -> int:
    return crc32(labels.numpy().tobytes())


def _state(sampler: EpochBatches, labels: int, epoch: int, batches: int, limit: int | None) -> LoaderState:
    of = len(sampler)
    return {
        "epoch": epoch, "batches": batches, "of": of, "limit": of if limit is None else min(of, limit),
        "images": sampler.size, "ranks": sampler.ranks, "seed": sampler.seed, "labels": labels,
    }  # fmt: skip
