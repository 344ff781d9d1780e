"""A datamodule with slow batches."""

from collections.abc import Iterator
from time import sleep

from torch import Tensor

from project.data.digits import Digits
from project.engine.loading import Crop, ImageArray, Split, Workers
from project.engine.loading.images import Fetched, Request

SECONDS_PER_BATCH = 0.2


class SlowArray(ImageArray):
    """Images in memory, whose batches arrive late."""

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the requested batches, each 0.2 s late."""
        for fetched in super().stream(requests, workers, crop):
            sleep(SECONDS_PER_BATCH)
            yield fetched

    def subset(self, indices: Tensor) -> "SlowArray":
        """Return the images at these positions."""
        return SlowArray(self.images[indices], self.targets[indices])


class SlowDigits(Digits):
    """The digits, with slow batches."""

    def load(self, split: Split) -> ImageArray | None:
        """Load the images of a split."""
        loaded = super().load(split)
        return SlowArray(loaded.images, loaded.targets) if loaded else None
