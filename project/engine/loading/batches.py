"""The images of each rank in each step of an epoch."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import Sampler


class EpochBatches(Sampler[Tensor]):
    """Batches of indices, int64; together, the ranks cover the data exactly once per epoch.

    All ranks have the same number of batches, so that none waits for another at the end. No image is repeated or
    dropped. The lengths of a rank's batches differ by at most one image, and are at most `batch_size`: the remainder of
    an epoch is spread over all batches. There is one exception: with a batch size of one, one batch holds two images
    if the ranks do not divide the data.

    Args:
        size: Number of images, at least `ranks`.
        batch_size: Largest batch of one rank.
        shuffle: Draw a new order from `seed` and the epoch; otherwise keep the order of the data.
        same_order: Use the order of the first epoch in every epoch.
        seed: Seed of the order, the same on every rank.
        rank: This process, in [0, ranks).
        ranks: Number of processes.

    Raises:
        ValueError: There are fewer images than ranks.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        same_order: bool = False,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if size < ranks:
            raise ValueError(f"got {size} images for {ranks} processes; each needs at least one")
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.same_order, self.rank, self.ranks = same_order, rank, ranks
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every rank."""
        smallest_share, largest_share = self.size // self.ranks, -(-self.size // self.ranks)
        return min(smallest_share, -(-largest_share // self.batch_size))

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of the current epoch."""
        if self.shuffle:
            drawn = 0 if self.same_order else self.epoch
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + drawn))
        else:
            order = torch.arange(self.size)
        yield from order[self.rank :: self.ranks].tensor_split(len(self))

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch, which determines the order; Lightning calls this at the start of each epoch."""
        self.epoch = epoch


def check_batch_size(batch_size: int, sizes: Mapping[str, int], ranks: int) -> None:
    """Check that each step has enough images.

    Args:
        batch_size: Images per step and process.
        sizes: Number of images in each split.
        ranks: Number of processes.

    Raises:
        ValueError: A step of all processes needs more images than train has, or a process has no image of a split.
    """
    images = sizes["train"]
    if batch_size * ranks > images:
        each = f" on each of {ranks} devices" if ranks > 1 else ""
        raise ValueError(
            f"data.batch_size: got {batch_size}{each}, but train has {images:,} images; use {images // ranks} or less"
        )
    for split, size in sizes.items():
        if size < ranks:
            raise ValueError(f"--devices: got {ranks}, but {split} has {size} images; each device needs at least one")


def batches_taken(limit: float, of: int) -> int:
    """Return how many of `of` batches the trainer takes per epoch.

    Args:
        limit: The trainer's `limit_train_batches`: a number of batches, or as a float a share of them.
        of: Number of batches.
    """
    return min(of, limit) if isinstance(limit, int) else int(of * limit)
