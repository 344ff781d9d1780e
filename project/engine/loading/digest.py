"""The digest of images: a short text that changes with them."""

import hashlib
from collections.abc import Iterable

import torch

from project.engine.loading.crop import Crop
from project.engine.loading.images import Images, fetch

_IMAGES_OF_SPLIT = 64


def images_digest(header: str, splits: Iterable[Images], crop: Crop) -> str:
    """Return 8 hexadecimal digits that change with the header, all targets, and pixels sampled from each split."""
    hashed = hashlib.sha256(header.encode())
    with torch.random.fork_rng(devices=[]):  # A user's dataset may draw random numbers.
        torch.manual_seed(0)
        for split in splits:
            fetched = fetch(split, torch.arange(0, len(split), -(-len(split) // _IMAGES_OF_SPLIT)), crop)
            hashed.update(split.targets.numpy().tobytes() + fetched.images.numpy().tobytes())
    return hashed.hexdigest()[:8]
