"""Contestants in processes of their own, of which one goes on at a time.

Nothing that one leaves behind, be it threads that spin or pages that are copied on writing, costs the next one time.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

Measure = Callable[[], float]

_ENDS_WITHIN_S = 10


def in_turn(row: str, makes: Mapping[str, Callable[[], Measure]], rounds: int) -> list[dict[str, float]]:
    """What each contestant measures in each round; prints a JSON object a round.

    Args:
        row: What is measured.
        makes: Called in the contestant's process; makes what is called when it is its turn.
        rounds: Turns of each.
    """
    contestants: dict[str, _Contestant] = {}
    results = []
    try:
        for name, make in makes.items():
            contestants[name] = _Contestant(make)
        for _ in range(rounds):
            results.append({name: contestant.measure() for name, contestant in contestants.items()})
            print(json.dumps({row: {name: round(value, 2) for name, value in results[-1].items()}}), flush=True)
    finally:
        for contestant in contestants.values():
            contestant.end()
    return results


class _Contestant:
    def __init__(self, make: Callable[[], Measure]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._turns, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_contend, args=(make, theirs))
        self._process.start()
        theirs.close()
        self._answer()

    def measure(self) -> float:
        self._signal(signal.SIGCONT)
        self._turns.send(True)
        return self._answer()

    def _answer(self) -> float:
        answer: float = self._turns.recv()
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            contestant = psutil.Process(self._process.pid)
            for process in (*contestant.children(recursive=True), contestant):
                with suppress(psutil.NoSuchProcess):  # some have processes for one epoch only
                    process.send_signal(number)

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        with suppress(OSError):  # it has failed, and said why
            self._turns.send(False)
        self._process.join(_ENDS_WITHIN_S)
        self._signal(signal.SIGKILL)


def _contend(make: Callable[[], Measure], turns: Connection) -> None:
    measure = make()
    turns.send(measure())  # warms up
    while turns.recv():
        turns.send(measure())
