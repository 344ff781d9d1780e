"""Alternating measurements of candidates, each in its own process; only one process runs at a time.

A stopped process cannot slow down the next one, for example by spinning threads or by copying pages on write.
"""

import multiprocessing
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

Measure = Callable[[], float]

_END_TIMEOUT_S = 10


def measure_alternately(makes: Mapping[str, Callable[[], Measure]], rounds: int) -> list[dict[str, float]]:
    """Measure each candidate once per round.

    Args:
        makes: Called once in each candidate's process; returns the function that measures.
        rounds: Number of rounds.

    Returns:
        The measured value of each candidate, for each round.
    """
    candidates: dict[str, _Candidate] = {}
    try:
        for name, make in makes.items():
            candidates[name] = _Candidate(make)
        return [{name: candidate.measure() for name, candidate in candidates.items()} for _ in range(rounds)]
    finally:
        for candidate in candidates.values():
            candidate.end()


class _Candidate:
    def __init__(self, make: Callable[[], Measure]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._requests, child_end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(make, child_end))
        self._process.start()
        child_end.close()
        self._receive()

    def measure(self) -> float:
        self._signal(signal.SIGCONT)
        self._requests.send(True)
        return self._receive()

    def _receive(self) -> float:
        value: float = self._requests.recv()
        self._signal(signal.SIGSTOP)
        return value

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            candidate = psutil.Process(self._process.pid)
            for process in (*candidate.children(recursive=True), candidate):
                with suppress(psutil.NoSuchProcess):  # Some candidates have processes for one epoch only.
                    process.send_signal(number)

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        with suppress(OSError):  # The process failed earlier, and printed its error.
            self._requests.send(False)
        self._process.join(_END_TIMEOUT_S)
        self._signal(signal.SIGKILL)


def _serve(make: Callable[[], Measure], requests: Connection) -> None:
    measure = make()
    requests.send(measure())  # The first measurement warms up and is not counted.
    while requests.recv():
        requests.send(measure())
