"""What a contestant measures when it is its turn; `begin` and what is made come before."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from benchmarks.loading.ours import begin
from benchmarks.loading.peers import Epoch
from benchmarks.loading.small import trained
from benchmarks.turns import Measure


def images_per_second(epoch: Epoch) -> float:
    """Speed of one epoch."""
    start = perf_counter()
    return epoch() / (perf_counter() - start)


def speed(make: Callable[[], Epoch], threads: int) -> Measure:
    """Images per second, where torch has so many threads in the process that takes the batches."""
    begin()
    torch.set_num_threads(threads)
    return partial(images_per_second, make())


def training(*, peer: bool) -> Measure:
    """Images per second of a whole training."""
    begin()
    return lambda: trained(peer=peer).samples_per_second


def waiting(*, peer: bool) -> Measure:
    """The share of its time that a training waits, in percent."""
    begin()
    return lambda: 100 * trained(peer=peer).wait_fraction
