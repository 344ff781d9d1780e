"""A dataset whose batches take a long time to make."""

from collections.abc import Iterator
from time import sleep

from torch import Tensor

from project.data.digits import Digits
from project.engine.loading import Crop, ImageArray, Split, Workers
from project.engine.loading.images import Fetched, Request

SECONDS_PER_BATCH = 0.2


class SlowArray(ImageArray):
    """Images in memory that arrive late."""

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """The batches of the requests, each 0.2 s late."""
        for fetched in super().stream(requests, workers, crop):
            sleep(SECONDS_PER_BATCH)
            yield fetched

    def subset(self, indices: Tensor) -> "SlowArray":
        """The images at these positions."""
        return SlowArray(self.images[indices], self.targets[indices])


class SlowDigits(Digits):
    """The digits, late."""

    def load(self, split: Split) -> ImageArray | None:
        """Load the images of a split."""
        loaded = super().load(split)
        return SlowArray(loaded.images, loaded.targets) if loaded else None
