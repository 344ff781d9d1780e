"""The image sizes that a model accepts, found by trials on the meta device."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

_LARGEST = 1024


def refusal(build: Callable[[int], nn.Module], channels: int, size: int) -> str | None:
    """Return why the model of `build(size)` cannot run on square images of `size` pixels; None if it can.

    Nothing is computed: tensors on the meta device have a shape and no content.
    """
    with torch.device("meta"):
        try:
            build(size)(torch.empty(2, channels, size, size))
        except (RuntimeError, ValueError, AssertionError) as error:
            if "meta" in str(error):  # The net reads values, which meta tensors do not have.
                return None
            return " ".join(str(error).split())
    return None


def accepted_sizes(build: Callable[[int], nn.Module], channels: int) -> str:
    """Describe the sizes up to 1,024 pixels that the model takes: `529 to 544`, `16 or more`, or nothing.

    The sizes are assumed to be one interval; a grid finds it (a fine one if a coarse one misses it), and
    bisection measures it.
    """

    @cache
    def takes(size: int) -> bool:
        return refusal(build, channels, size) is None

    coarse, fine = [1, 2, 4, 8, 16, 24, *range(32, _LARGEST + 1, 16)], list(range(1, 257))
    grid = coarse if any(map(takes, coarse)) else fine
    good = [size for size in grid if takes(size)]
    if not good:
        return ""
    low, below = good[0], max((s for s in grid if s < good[0]), default=0)
    while low - below > 1:
        middle = (low + below) // 2
        low, below = (middle, below) if takes(middle) else (low, middle)
    if good[-1] == _LARGEST:
        return f"{low} or more"
    high, above = good[-1], min(s for s in grid if s > good[-1])
    while above - high > 1:
        middle = (high + above) // 2
        high, above = (middle, above) if takes(middle) else (high, middle)
    return str(low) if low == high else f"{low} to {high}"
