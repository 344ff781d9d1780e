"""Threads that fill batches, and the memory that successive batches reuse."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.engine.loading.workers import LoadingError

T = TypeVar("T")


class Threads:
    """Threads that execute calls in order. A thread that hangs in a read does not keep the process alive.

    Args:
        count: Number of threads; with 0, `submit` executes the call itself.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Fixes this thread's thread count; otherwise it would inherit the workers' count of 1.
        torch.get_num_threads()
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        for _ in range(count):
            Thread(target=_work, args=(self._tasks,), daemon=True, name="loading").start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Schedule a call; its future has the result, or re-raises the exception."""
        future: Future[T] = Future()
        if self._count:
            self._tasks.put((future, call))
        else:
            _run(future, call)
        return future

    def close(self) -> None:
        """Cancel calls that have not begun, and end the threads."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._count):
            self._tasks.put(None)


def one_core_a_thread() -> None:
    """Set torch's thread count to 1 in the calling thread."""
    torch.set_num_threads(1)


def _work(tasks: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    one_core_a_thread()
    while (task := tasks.get()) is not None:
        _run(*task)
        del task  # This releases the memory that it wrote to.


def wait_for(call: Future[T], timeout_s: float) -> T:
    """Wait for a call; return its result, or re-raise its exception.

    Raises:
        LoadingError: It takes longer than `timeout_s`.
    """
    try:
        return call.result(timeout_s)
    except TimeoutError as error:
        raise LoadingError(
            "a thread hangs in reading files or is overloaded; check the disk, or allow more with "
            "--data.workers.timeout_s N"
        ) from error


def _run(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except Exception as error:  # noqa: BLE001  # The future passes it to its reader.
        future.set_exception(error)
    else:
        future.set_result(result)


class Buffers:
    """Memory of batches, which is reused when nothing refers to its last batch.

    New memory for every batch would take as long as resizing its images, because the kernel clears each page.

    Args:
        shape: Shape of one item.
        pin_memory: Page-locked memory.
    """

    def __init__(self, shape: tuple[int, ...], *, pin_memory: bool = False) -> None:
        self.shape, self._pin_memory = shape, pin_memory
        self._all: list[tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = []

    def take(self, count: int) -> tuple[NDArray[np.uint8], Tensor]:
        """Return memory for `count` items, as an array and as a tensor; it is not reused while either exists."""
        free = (place for place, (memory, user) in enumerate(self._all) if user() is None and len(memory) >= count)
        place = next(free, None)
        memory = self._new(count) if place is None else self._all.pop(place)[0]
        array = memory[:count]
        self._all.append((memory, weakref.ref(array)))
        return array, torch.from_numpy(array)

    def _new(self, count: int) -> NDArray[np.uint8]:
        memory: NDArray[np.uint8] = torch.empty(
            (count, *self.shape), dtype=torch.uint8, pin_memory=self._pin_memory
        ).numpy()
        return memory
