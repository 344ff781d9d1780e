"""Random numbers that follow from what they are for, not from when or where they are drawn.

A key stands for one image in one epoch. Its n-th number is a hash of key and n, so that it is the same
with any number of workers and ranks, in any order, and after a run was interrupted.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (the idea); Steele et al., Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014 (the hash, splitmix64).
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_BITS = 24
"""A float32 holds as many exactly."""


def global_seed() -> int:
    """What `seed_everything` was given; 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def sample_keys(seed: int, epoch: int, indices: Sequence[int]) -> Tensor:
    """Keys of images in an epoch.

    Args:
        seed: Seed of the run.
        epoch: Counted from 0.
        indices: Places of N images in their split.

    Returns:
        (N,) int64, on the CPU.
    """
    stream = _hashed(_hashed(np.array([seed], np.uint64)) + np.uint64(epoch))
    return torch.from_numpy(_hashed(stream + np.array(indices, np.uint64)).view(np.int64))


def uniform(keys: Tensor, draw: int) -> Tensor:
    """One number for each key.

    Args:
        keys: (N,) int64.
        draw: Which of a key's numbers, from 0.

    Returns:
        (N,) float32 in [0, 1).
    """
    bits = _hashed(keys.numpy().view(np.uint64) + np.uint64(_GOLDEN * (draw + 1) % 2**64))
    return torch.from_numpy((bits >> np.uint64(64 - _BITS)).astype(np.float32) / np.float32(2**_BITS))


def integers(keys: Tensor, draw: int, end: int | Tensor) -> Tensor:
    """One whole number in [0, end) for each key, (N,) int64."""
    return (uniform(keys, draw) * end).long()


def _hashed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
