"""The time that a device has nothing to do because its next batch is not there."""

from collections import deque
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import torch

Mark = TypeVar("Mark")


class Clock(Protocol[Mark]):
    """Moments in the work of a device."""

    def mark(self) -> Mark:
        """The moment at which the device has done what it was given so far."""
        ...

    def seconds(self, start: Mark, end: Mark) -> float | None:
        """Time between two moments; None if the device has not reached the later one."""
        ...


class HostClock:
    """Moments of a device that works while its caller waits, such as a CPU."""

    def mark(self) -> float:
        """This moment in seconds."""
        return perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """Time between two moments."""
        return end - start


class CudaClock:
    """Moments of a CUDA device, whose work is queued and done later: events on its current stream.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """An event behind everything that is queued."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        """Time between two events on the device."""
        reached: bool = end.query()  # type: ignore[no-untyped-call]
        return start.elapsed_time(end) / 1000 if reached else None


def clock_of(device: torch.device) -> "CudaClock | HostClock":
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


class WaitTime(Generic[Mark]):
    """Adds up how long a device waits for batches.

    The two moments of a batch are when the device has done what was queued before the batch was asked for, and when
    it gets the batch. While the device is still at work at the second one, they are the same for it: nothing waits,
    however long the batch took.

    Args:
        clock: Of the device.
    """

    def __init__(self, clock: Clock[Mark]) -> None:
        self._clock = clock
        self._asked: Mark | None = None
        self._open: deque[tuple[Mark, Mark]] = deque()
        self._seconds = 0.0

    def asked(self) -> None:
        """The next batch is asked for."""
        self._asked = self._clock.mark()

    def handed_over(self) -> None:
        """The batch is there, and the next step can be queued."""
        assert self._asked is not None
        self._open.append((self._asked, self._clock.mark()))
        self._add_reached()

    @property
    def seconds(self) -> float:
        """Time that was waited, as far as the device has come."""
        self._add_reached()
        return self._seconds

    def _add_reached(self) -> None:
        while self._open and (waited := self._clock.seconds(*self._open[0])) is not None:
            self._seconds += waited
            self._open.popleft()
