"""Measurement of the memory that loading holds."""

from collections.abc import Callable

import psutil

from benchmarks.loading.ours import prepare_process
from benchmarks.loading.peers import Epoch


def memory_mib() -> float:
    """Return the memory that this process and its children do not share with others, in MiB."""
    process = psutil.Process()
    return sum(p.memory_full_info().uss for p in (process, *process.children(recursive=True))) / 2**20


def memory_growth(make: Callable[[], Epoch], epochs: int = 20) -> dict[str, float]:
    """Measure the memory that loading holds after the first and after the last epoch, in MiB."""
    prepare_process()
    before, after = memory_mib(), []
    epoch = make()
    for _ in range(epochs):
        epoch()
        after.append(memory_mib() - before)
    return {"first": round(after[0], 1), "last": round(after[-1], 1)}
