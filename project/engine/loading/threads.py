"""Threads that fill batches, and the memory that batches share, one after the other."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.engine.loading.errors import LoadingError


class Threads:
    """Threads that work off calls in their order; a thread that hangs in a read does not keep the process alive.

    Args:
        count: Number of threads; with 0 a call is done when it is submitted.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        torch.get_num_threads()  # now this thread keeps its number; one that never asked would get that of the others
        self._tasks: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        for _ in range(count):
            Thread(target=_work, args=(self._tasks,), daemon=True, name="loading").start()

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Have a call done; the future says when, and raises what it raised."""
        future: Future[None] = Future()
        if self._count:
            self._tasks.put((future, call))
        else:
            _run(future, call)
        return future

    def close(self) -> None:
        """Drop what has not begun and let the threads end."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._count):
            self._tasks.put(None)


def one_core_a_thread() -> None:
    """Keep torch from starting threads of its own in the calling thread."""
    torch.set_num_threads(1)


def _work(tasks: "SimpleQueue[tuple[Future[None], Callable[[], None]] | None]") -> None:
    one_core_a_thread()
    while (task := tasks.get()) is not None:
        _run(*task)
        del task  # and with it the memory that it wrote to


def wait_for(call: Future[None], timeout_s: float) -> None:
    """Wait for a call, and raise what it raised.

    Raises:
        LoadingError: It takes longer than `timeout_s`.
    """
    try:
        call.result(timeout_s)
    except TimeoutError as error:
        raise LoadingError(
            "a thread hangs in reading files or has too much to do; look at the disk, or allow more with "
            "--data.worker_timeout_s N"
        ) from error


def _run(future: Future[None], call: Callable[[], None]) -> None:
    try:
        call()
    except Exception as error:  # noqa: BLE001  # belongs to whoever waits for the call
        future.set_exception(error)
    else:
        future.set_result(None)


class Buffers:
    """Memory of batches that is used again as soon as nothing holds the batch that was in it.

    Fresh memory for every batch would cost as much time as resizing its images: each page is cleared first.

    Args:
        shape: Shape of one item.
        pin_memory: Page-locked memory.
    """

    def __init__(self, shape: tuple[int, ...], *, pin_memory: bool = False) -> None:
        self._shape, self._pin_memory = shape, pin_memory
        self._all: list[tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = []

    def take(self, count: int) -> tuple[NDArray[np.uint8], Tensor]:
        """Memory for `count` items, as an array and as a tensor, which keeps it from being used again."""
        free = (place for place, (memory, user) in enumerate(self._all) if user() is None and len(memory) >= count)
        place = next(free, None)
        memory = self._new(count) if place is None else self._all.pop(place)[0]
        array = memory[:count]
        self._all.append((memory, weakref.ref(array)))
        return array, torch.from_numpy(array)

    def _new(self, count: int) -> NDArray[np.uint8]:
        memory: NDArray[np.uint8] = torch.empty(
            (count, *self._shape), dtype=torch.uint8, pin_memory=self._pin_memory
        ).numpy()
        return memory
