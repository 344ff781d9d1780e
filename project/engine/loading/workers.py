"""The threads or processes that fetch batches in advance."""

from dataclasses import dataclass, replace
from typing import Self

from project.engine.loading.ranges import check_range
from project.engine.runtime.devices import usable_cores


class LoadingError(RuntimeError):
    """Batches cannot be fetched; the message names the cause and the option that helps."""


@dataclass(frozen=True)
class Workers:
    """Threads that decode files, or processes that load a torch dataset; images in memory need none.

    Args:
        num: Threads or processes per device; null uses all cores, 0 fetches a batch when it is requested.
        prefetch_factor: Batches kept ready, in total for threads or by each process.
        persistent: Keep loading processes between epochs.
        pin_memory: Put batches into page-locked memory for asynchronous copies, if training uses a GPU.
        timeout_s: Longest wait for a batch in seconds; after it, training ends with an error.
    """

    num: int | None = None
    prefetch_factor: int = 2
    persistent: bool = True
    pin_memory: bool = True
    timeout_s: int = 120

    def __post_init__(self) -> None:
        check_range("data.workers.num", self.num or 0, 0)
        check_range("data.workers.prefetch_factor", self.prefetch_factor, 1)
        check_range("data.workers.timeout_s", self.timeout_s, 1)

    def count(self, devices: int = 1) -> int:
        """Return the number of threads or processes for one of `devices` on this machine."""
        return max(1, usable_cores() // devices) if self.num is None else self.num

    def per_device(self, devices: int) -> Self:
        """Return the workers of one of `devices` on this machine."""
        return replace(self, num=self.count(devices))
