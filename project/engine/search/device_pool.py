"""The share of the machine that each trial gets: GPUs of its own, and a part of the CPU cores."""

from collections.abc import Sequence

from project.engine.runtime.devices import CPU_CORES

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_MIG = "MIG-"


class Devices:
    """Devices for trials that run at the same time.

    Args:
        n_jobs: Trials at the same time.
        per_trial: Processes, and so GPUs, of one trial.
        cores: CPU cores to divide.
        gpus: Names of the GPUs; empty on a machine without.

    Attributes:
        threads: CPU threads of each process of a trial.

    Raises:
        ValueError: There are not enough GPUs for so many trials at the same time.
    """

    def __init__(self, n_jobs: int, per_trial: int, cores: int, gpus: Sequence[str]) -> None:
        self.threads = max(1, cores // n_jobs // per_trial)
        enough_for = len(gpus) // per_trial
        if gpus and enough_for < n_jobs:
            raise ValueError(
                f"--n_jobs: got {n_jobs}, but {len(gpus)} GPUs are enough for {enough_for} trials of {per_trial} "
                f"devices at a time; give --n_jobs {max(1, enough_for)}"
            )
        share = {CPU_CORES: str(self.threads * per_trial)}
        groups = [",".join(gpus[job * per_trial : (job + 1) * per_trial]) for job in range(n_jobs)]
        self._free = [share | ({_VISIBLE_GPUS: group} if group else {}) for group in groups]

    @property
    def free(self) -> int:
        """Trials that can start now."""
        return len(self._free)

    def lend(self) -> dict[str, str]:
        """Environment variables that give a trial its share; there must be a free one."""
        return self._free.pop()

    def give_back(self, lent: dict[str, str]) -> None:
        """Take back what `lend` gave."""
        self._free.append(lent)


def gpu_ids(visible: str | None, count: int) -> list[str]:
    """Name the GPUs that trials may use, as `CUDA_VISIBLE_DEVICES` of a trial takes them.

    CUDA ignores the variable from its first name on that does not exist, and takes none if one is repeated.

    Args:
        visible: `CUDA_VISIBLE_DEVICES` of this process; None if it is not set.
        count: GPUs that CUDA shows to this process.
    """
    if visible is None:
        return [str(gpu) for gpu in range(count)]
    names = [name.strip() for name in visible.split(",")]
    if names[0].startswith(_MIG) and count:
        # CUDA shows the first MIG device alone, but another process can have the next one.
        return [name for name in dict.fromkeys(names) if name.startswith(_MIG)]
    return names[:count]
