"""Samples that occur more than once, in one split or in two."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from torch import Tensor

from project.engine.data import DescribedDataModule
from project.engine.runtime.progress import progress_bar

_DIGEST_BYTES = 16
"""Two different samples have the same digest with a probability below 1e-25, for a million samples."""


class Place(NamedTuple):
    """The position of a sample, and the digest of its targets."""

    split: str
    position: int
    target: bytes


@dataclass(frozen=True)
class Copies:
    """Groups of equal samples.

    Attributes:
        counts: Number of samples that were read, by split; empty if the data do not yield samples.
        groups: The places of each sample that occurs more than once, in the order of the splits.
    """

    counts: dict[str, int]
    groups: Sequence[Sequence[Place]]

    def within(self, split: str) -> int:
        """Return the number of samples of a split that repeat an earlier one of this split."""
        in_split = (sum(place.split == split for place in group) for group in self.groups)
        return sum(count - 1 for count in in_split if count)

    def shared(self, split: str, other: str) -> int:
        """Return the number of samples of a split that are in another split, too."""
        of_both = [group for group in self.groups if any(place.split == other for place in group)]
        return sum(place.split == split for group in of_both for place in group)

    def contradicting(self, split: str) -> int:
        """Return the number of samples of a split that have other targets elsewhere."""
        differing = [group for group in self.groups if len({place.target for place in group}) > 1]
        return sum(place.split == split for group in differing for place in group)


def find_copies(data: DescribedDataModule) -> Copies:
    """Read all samples, and find those with equal values after resizing.

    Args:
        data: The data, after `setup`.
    """
    places: dict[bytes, list[Place]] = defaultdict(list)
    counts: dict[str, int] = {}
    for split, size in data.sizes().items():
        position = 0
        with progress_bar(f"reading {split}", size) as show:
            for inputs, targets in data.samples(split):
                for sample, target in zip(inputs, targets, strict=True):
                    places[_digest(sample)].append(Place(split, position, _digest(target)))
                    position += 1
                show(position)
        if position:
            counts[split] = position
    return Copies(counts, [group for group in places.values() if len(group) > 1])


def _digest(values: Tensor) -> bytes:
    return blake2b(values.contiguous().numpy().tobytes(), digest_size=_DIGEST_BYTES).digest()
