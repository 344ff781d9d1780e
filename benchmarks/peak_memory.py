"""The largest memory that a process has used."""

import resource
from pathlib import Path

import torch


def peak_memory_mib() -> float:
    """Return the largest memory that this process has used: of its GPU if it uses one, or its resident memory."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Unlike ru_maxrss, it does not contain the memory of the process that started this one.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
