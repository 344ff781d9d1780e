"""A DataLoader that knows how long training waited for it."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from torch.utils.data import DataLoader

from project.loading.images import Batch


class MeasuredLoader(DataLoader[Batch]):
    """Times every wait for a batch; `wait_s` is the sum of them in seconds since the loader was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wait_s = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # DataLoader promises its own iterator class
        """Yield the batches of one epoch."""
        start = perf_counter()
        for batch in super().__iter__():
            self.wait_s += perf_counter() - start
            yield batch
            start = perf_counter()
