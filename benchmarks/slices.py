"""Trainings in processes that take turns: one runs for a slice of time while the others are stopped.

The speed of a machine drifts, and slices of a third of a second spread the drift over all of them.
"""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_bool, c_double, c_int64
from dataclasses import dataclass, field
from time import perf_counter, sleep

import torch
from lightning import Callback, Trainer

from benchmarks.peak_memory import peak_memory_mib

SLICE_S = 0.3
MEMORY_TIMEOUT_S = 60


class Steps:
    """The number of a training's steps and the request to stop, in shared memory without locks.

    A stopped process could hold a lock.
    """

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._count, self._stop = spawn.RawValue(c_int64), spawn.RawValue(c_bool)
        self._memory, self._measure_memory = spawn.RawValue(c_double), spawn.RawValue(c_bool)

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
        if self._measure_memory.value and not self._memory.value:
            self._memory.value = peak_memory_mib()

    def memory_mib(self) -> float:
        """Return the largest memory that the running training has used; it measures it after its next step."""
        self._measure_memory.value = True
        end = perf_counter() + MEMORY_TIMEOUT_S
        while not self._memory.value and perf_counter() < end:
            sleep(SLICE_S)
        return float(self._memory.value)

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


@dataclass(frozen=True)
class Rank:
    """One of the processes of a training.

    Attributes:
        environment: Its environment variables, as those of torchrun.
        core: The only core on which it runs, with one thread; None for all cores.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    core: int | None = None


class Candidate:
    """A training in its own processes, which run only during their warm-up and its slices of time.

    Args:
        train: Trains until its `Steps` are stopped; counts its steps. A function of a module.
        arguments: More arguments of `train`.
        ranks: Its processes.
    """

    def __init__(self, train: Callable[..., None], *arguments: object, ranks: Sequence[Rank] = (Rank(),)) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["project.fit"])  # Each training would need seconds to import the libraries.
        self.ranks = [Steps() for _ in ranks]
        self._processes = [
            context.Process(target=_run, args=(train, rank, steps, *arguments))
            for rank, steps in zip(ranks, self.ranks, strict=True)
        ]
        for process in self._processes:
            process.start()

    def warm_up(self, steps: int) -> None:
        """Wait until the training has done this number of steps; then stop its processes.

        Raises:
            RuntimeError: The training failed.
        """
        while self.steps.count < steps:
            if not all(process.is_alive() for process in self._processes):
                self.kill()
                raise RuntimeError("a training failed before its first slice; its error is above")
            sleep(SLICE_S)
        self._signal(signal.SIGSTOP)

    @property
    def steps(self) -> Steps:
        """The steps of the first process, which are those of all."""
        return self.ranks[0]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            assert process.pid
            os.kill(process.pid, number)

    def run_slice(self) -> tuple[float, int]:
        """Train for one slice of time; return its seconds and its number of steps."""
        before, start = self.steps.count, perf_counter()
        self._signal(signal.SIGCONT)
        sleep(SLICE_S)
        self._signal(signal.SIGSTOP)
        return perf_counter() - start, self.steps.count - before

    def memory_mib(self) -> list[float]:
        """Train some more steps, and return the largest memory that each process has used."""
        self._signal(signal.SIGCONT)
        measured = [steps.memory_mib() for steps in self.ranks]
        self._signal(signal.SIGSTOP)
        return measured

    def finish(self) -> None:
        """End the training in the regular way."""
        self._signal(signal.SIGCONT)
        for steps, process in zip(self.ranks, self._processes, strict=True):
            steps.stop()
            process.join()

    def kill(self) -> None:
        """Kill the training."""
        for process in self._processes:
            process.kill()
            process.join()


def _run(train: Callable[..., None], rank: Rank, *arguments: object) -> None:
    os.environ.update(rank.environment)
    if rank.core is not None:
        os.sched_setaffinity(0, {rank.core})
        torch.set_num_threads(1)
    train(*arguments)


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
