"""The time that a device is idle because it waits for its next batch."""

from collections import deque
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import torch

Mark = TypeVar("Mark")


class Clock(Protocol[Mark]):
    """A source of time marks in the work of a device."""

    def mark(self) -> Mark:
        """Mark the moment at which the device finishes the work queued so far."""
        ...

    def seconds(self, start: Mark, end: Mark) -> float | None:
        """Return the time between two marks; None if the device has not reached the later one."""
        ...


class HostClock:
    """Clock of a synchronous device, such as a CPU."""

    def mark(self) -> float:
        """Return the current time in seconds."""
        return perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """Return the time between two marks."""
        return end - start


class CudaClock:
    """Clock of a CUDA device, which executes queued work later; its marks are events on the current stream.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """Record an event after all queued work."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        """Return the time between two events on the device."""
        reached: bool = end.query()  # type: ignore[no-untyped-call]
        return start.elapsed_time(end) / 1000 if reached else None


def clock_of(device: torch.device) -> "CudaClock | HostClock":
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


class WaitTime(Generic[Mark]):
    """Total time that a device waits for batches.

    A batch has two marks: the device finishes the work queued before the batch was requested, and the device receives
    the batch. If the device is still busy when the batch arrives, both marks are equal on the device: it did not wait,
    however long the batch took.

    Args:
        clock: Clock of the device.
    """

    def __init__(self, clock: Clock[Mark]) -> None:
        self._clock = clock
        self._asked: Mark | None = None
        self._open: deque[tuple[Mark, Mark]] = deque()
        self._seconds = 0.0

    def asked(self) -> None:
        """Mark the request for the next batch."""
        self._asked = self._clock.mark()

    def handed_over(self) -> None:
        """Mark the arrival of the batch; the next step can be queued."""
        assert self._asked is not None
        self._open.append((self._asked, self._clock.mark()))
        self._add_reached()

    @property
    def seconds(self) -> float:
        """Waiting time in seconds, up to the current position of the device."""
        self._add_reached()
        return self._seconds

    def _add_reached(self) -> None:
        while self._open and (waited := self._clock.seconds(*self._open[0])) is not None:
            self._seconds += waited
            self._open.popleft()
