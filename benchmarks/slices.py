"""Trainings in processes that take turns: one runs for a slice of time while the others are stopped.

The speed of a machine drifts, and slices of a third of a second spread the drift over all of them.
"""

import multiprocessing
import os
import random
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_bool, c_int64
from time import perf_counter, sleep

from lightning import Callback, Trainer

SLICE_S = 0.3


class Steps:
    """The number of a training's steps and the request to stop, in shared memory without locks.

    A stopped process could hold a lock.
    """

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._count, self._stop = spawn.RawValue(c_int64), spawn.RawValue(c_bool)

    @property
    def count(self) -> int:
        """Number of steps so far."""
        return int(self._count.value)

    @property
    def stopped(self) -> bool:
        """Whether the training is asked to stop."""
        return bool(self._stop.value)

    def add(self) -> None:
        """Count a step."""
        self._count.value += 1

    def stop(self) -> None:
        """Ask the training to stop."""
        self._stop.value = True


class Counter(Callback):
    """Counts the steps of a trainer, and stops it on request."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._steps.add()
        if self._steps.stopped:
            trainer.should_stop = True


class Candidate:
    """A training in its own process, which runs only during its slices of time.

    Args:
        train: Trains until its `Steps` are stopped; counts its steps. A function of a module.
        arguments: More arguments of `train`.
        warm_up: Number of steps before the first slice.
    """

    def __init__(self, train: Callable[..., None], *arguments: object, warm_up: int) -> None:
        self.steps = Steps()
        self._process = multiprocessing.get_context("spawn").Process(target=train, args=(self.steps, *arguments))
        self._process.start()
        while self.steps.count < warm_up:
            if not self._process.is_alive():
                raise RuntimeError("a training failed before its first slice; its error is above")
            sleep(SLICE_S)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def run_slice(self) -> tuple[float, int]:
        """Train for one slice of time; return its seconds and its number of steps."""
        before, start = self.steps.count, perf_counter()
        self._signal(signal.SIGCONT)
        sleep(SLICE_S)
        self._signal(signal.SIGSTOP)
        return perf_counter() - start, self.steps.count - before

    def finish(self) -> None:
        """End the training in the regular way."""
        self._signal(signal.SIGCONT)
        self.steps.stop()
        self._process.join()

    def kill(self) -> None:
        """Kill the training."""
        self._process.kill()


def ms_per_step(candidates: Mapping[str, Candidate], slices: int) -> dict[str, float]:
    """Give each candidate `slices` slices in random order; return its milliseconds per step.

    The order is random, because the training after a server's has cold caches.
    """
    spent, steps = dict.fromkeys(candidates, 0.0), dict.fromkeys(candidates, 0)
    for _ in range(slices):
        for name in random.sample(list(candidates), len(candidates)):
            seconds, done = candidates[name].run_slice()
            spent[name] += seconds
            steps[name] += done
    return {name: 1000 * spent[name] / max(1, steps[name]) for name in candidates}


def spread(ratios: Sequence[float]) -> list[str]:
    """Format the median, minimum and maximum of ratios."""
    return [f"{value:.3f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
