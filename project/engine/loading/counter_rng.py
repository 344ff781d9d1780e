"""Random numbers that depend only on their key, not on when or where they are drawn.

A key identifies one image in one epoch. Its n-th number is a hash of key and n. It is therefore the same for any number
of workers and ranks, in any order, and after a resume.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (the idea); Steele et al., Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014 (the hash, splitmix64).
"""

import os

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64
_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24
"""A float32 represents integers of this many bits exactly."""
_FIRST_OF_KEYS = 2**32
"""The first draw that is used as a key."""


def global_seed() -> int:
    """Return the seed of `seed_everything`; 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Compute the keys of images in an epoch.

    The lowest bit of an image's key is random in epoch 0, and changes with each epoch.

    Args:
        seed: Seed of the run.
        epoch: Counted from 0.
        indices: Places of N images in their split, (N,) int64.

    Returns:
        (N,) int64, on the CPU.
    """
    streams = (_hashed_number(_hashed_number(seed) + number) for number in (0, epoch))
    first, keys = (_hashed(indices + _signed(stream)) for stream in streams)
    return keys & ~1 | (first ^ epoch) & 1


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a training step on a rank, in [0, 2**63)."""
    key = 0
    for number in (seed, step, rank):
        key = _hashed_number(key + number)
    return key % 2**63


def alternating(keys: Tensor) -> Tensor:
    """Return (N,) bool: at random in epoch 0, and in each later epoch the opposite of the epoch before."""
    return (keys & 1).bool()


def independent_keys(keys: Tensor, number: int) -> Tensor:
    """Return new keys, whose draws from 0 on are independent of those of `keys` and of any other `number`.

    Args:
        keys: (N,) int64.
        number: From 0.

    Returns:
        (N,) int64, on the device of `keys`.
    """
    return _bits(keys, _FIRST_OF_KEYS + number, 1).squeeze(1)


def uniform(keys: Tensor, first: int, count: int | None = None) -> Tensor:
    """Draw one or several numbers for each key.

    Args:
        keys: (N,) int64.
        first: Which of a key's numbers, from 0.
        count: How many numbers, beginning with `first`; None draws one, without the second dimension.

    Returns:
        (N,) or (N, count) float32 in [0, 1), on the device of `keys`.
    """
    bits = _bits(keys, first + 1, count or 1)
    numbers: Tensor = (bits >> (64 - _BITS) & (2**_BITS - 1)).float() / 2**_BITS
    return numbers if count else numbers.squeeze(1)


def integers(keys: Tensor, first: int, end: int | Tensor, count: int | None = None) -> Tensor:
    """Draw integers in [0, end), (N,) or (N, count) int64; see `uniform`."""
    return (uniform(keys, first, count) * end).long()


def _bits(keys: Tensor, first: int, count: int) -> Tensor:
    # (N, count) int64.
    return _hashed(keys.unsqueeze(1) + _signed(_GOLDEN) * torch.arange(first, first + count, device=keys.device))


def _hashed_number(x: int) -> int:
    """Return the hash of `_hashed` for one number in [0, 2**64), without the cost of a tensor."""
    x = (x + _GOLDEN) % _WORD
    x = (x ^ x >> 30) * _FACTORS[0] % _WORD
    x = (x ^ x >> 27) * _FACTORS[1] % _WORD
    return x ^ x >> 31


def _hashed(x: Tensor) -> Tensor:
    # torch has no arithmetic of uint64. The factors are therefore signed, and masks remove copies of the sign.
    x = x + _signed(_GOLDEN)
    x = (x ^ (x >> 30 & (2**34 - 1))) * _signed(_FACTORS[0])
    x = (x ^ (x >> 27 & (2**37 - 1))) * _signed(_FACTORS[1])
    return x ^ (x >> 31 & (2**33 - 1))


def _signed(number: int) -> int:
    """Return the int64 that has the bits of a number in [0, 2**64)."""
    return number - _WORD if number >= _WORD // 2 else number
