"""A dataset whose batches take a long time to make."""

from collections.abc import Iterator
from time import sleep

from torch import Tensor

from project.data.datamodule import Split
from project.data.digits import Digits
from project.engine.loading import ImageArray, Workers
from project.engine.loading.images import Fetched, Request

SECONDS_PER_BATCH = 0.2


class SlowArray(ImageArray):
    """Images in memory that arrive late."""

    def stream(self, requests: Iterator[Request], workers: Workers) -> Iterator[Fetched]:
        """The batches of the requests, each 0.2 s late."""
        for fetched in super().stream(requests, workers):
            sleep(SECONDS_PER_BATCH)
            yield fetched

    def subset(self, indices: Tensor) -> "SlowArray":
        """The images at these positions."""
        images, labels = self[indices]
        return SlowArray(images, labels)


class SlowDigits(Digits):
    """The digits, late."""

    def load(self, split: Split) -> ImageArray | None:
        """Load the images of a split."""
        loaded = super().load(split)
        return SlowArray(loaded.images, loaded.labels) if loaded else None
