"""Measurements of one candidate. Each function prepares its process, and returns the function that measures."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from benchmarks.alternating import Measure
from benchmarks.loading.ours import prepare_process
from benchmarks.loading.peers import Epoch
from benchmarks.loading.small import train_small_cnn


def images_per_second(epoch: Epoch) -> float:
    """Load one epoch, and return its images per second."""
    start = perf_counter()
    return epoch() / (perf_counter() - start)


def speed(make: Callable[[], Epoch], threads: int) -> Measure:
    """Measure the images per second of loading; torch has `threads` threads in the process that takes the batches."""
    prepare_process()
    torch.set_num_threads(threads)
    return partial(images_per_second, make())


def training(*, peer: bool) -> Measure:
    """Measure the images per second of a training."""
    prepare_process()
    return lambda: train_small_cnn(peer=peer).total.samples_per_second


def waiting(*, peer: bool) -> Measure:
    """Measure the percentage of its time that a training waits for batches."""
    prepare_process()
    return lambda: 100 * train_small_cnn(peer=peer).total.wait_fraction
