"""The time that a device is idle because it waits for its next batch."""

from collections import deque
from time import perf_counter
from typing import Any

import torch


class HostEvent:
    """A moment of a synchronous device, such as a CPU, with the methods of `torch.cuda.Event`."""

    def __init__(self) -> None:
        self._seconds = perf_counter()

    def query(self) -> bool:
        """Return whether the device has reached the moment."""
        return True

    def elapsed_time(self, end: "HostEvent") -> float:
        """Return the time between two moments, in milliseconds."""
        return 1000 * (end._seconds - self._seconds)


def mark(device: torch.device) -> Any:
    """Mark the moment at which a device finishes the work queued so far, which a CUDA device executes later.

    Returns:
        A `torch.cuda.Event` or a `HostEvent`.
    """
    if device.type != "cuda":
        return HostEvent()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


class WaitTime:
    """Total time that a device waits for batches.

    A batch has two marks: the device finishes the work queued before the batch was requested, and the device receives
    the batch. If the device is still busy when the batch arrives, both marks are equal on the device: it did not wait,
    however long the batch took.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: deque[tuple[Any, Any]] = deque()
        self._seconds = 0.0

    def asked(self) -> None:
        """Mark the request for the next batch."""
        self._asked = mark(self._device)

    def handed_over(self) -> None:
        """Mark the arrival of the batch; the next step can be queued."""
        self._open.append((self._asked, mark(self._device)))
        self._add_reached()

    @property
    def seconds(self) -> float:
        """Waiting time in seconds, up to the current position of the device."""
        self._add_reached()
        return self._seconds

    def _add_reached(self) -> None:
        while self._open and self._open[0][1].query():
            start, end = self._open.popleft()
            self._seconds += start.elapsed_time(end) / 1000
