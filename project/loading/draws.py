"""Random numbers that follow from what they are for, not from when or where they are drawn.

A key stands for one image in one epoch. Its n-th number is a hash of key and n, so that it is the same
with any number of workers and ranks, in any order, and after a run was interrupted.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (the idea); Steele et al., Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014 (the hash, splitmix64).
"""

import os
from collections.abc import Sequence

import torch
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
    stream = _hashed(_hashed(torch.tensor(seed)) + epoch)
    return _hashed(stream + torch.tensor(indices))


def uniform(keys: Tensor, draw: int) -> Tensor:
    """One number for each key.

    Args:
        keys: (N,) int64.
        draw: Which of a key's numbers, from 0.

    Returns:
        (N,) float32 in [0, 1).
    """
    bits = _hashed(keys + _signed(_GOLDEN * (draw + 1)))
    numbers: Tensor = _shifted(bits, 64 - _BITS).float() / 2**_BITS
    return numbers


def integers(keys: Tensor, draw: int, end: int | Tensor) -> Tensor:
    """One whole number in [0, end) for each key, (N,) int64."""
    return (uniform(keys, draw) * end).long()


def _hashed(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 with its sign; what comes in from the left must be zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63
