"""Which devices a trial gets: GPUs are lent, cores are divided."""

from collections.abc import Sequence

import torch

_LENT = "CUDA_VISIBLE_DEVICES"


class Devices:
    """Devices for trials that run at the same time.

    Args:
        n_jobs: Trials at a time.
        per_trial: Processes, and so GPUs, of one trial.
        cores: CPU cores to divide.
        gpus: Ids of the GPUs; empty on a machine without.

    Raises:
        ValueError: There are not enough GPUs for so many trials at a time.
    """

    def __init__(self, n_jobs: int, per_trial: int, cores: int, gpus: Sequence[str]) -> None:
        self.threads = max(1, cores // n_jobs // per_trial)
        groups = [gpus[start : start + per_trial] for start in range(0, len(gpus) - per_trial + 1, per_trial)]
        if gpus and len(groups) < n_jobs:
            raise ValueError(
                f"--n_jobs: got {n_jobs}, but {len(gpus)} GPUs are enough for {len(groups)} trials of {per_trial} "
                f"devices at a time; give --n_jobs {max(1, len(groups))}"
            )
        self._free = [{_LENT: ",".join(group)} for group in groups] or [{} for _ in range(n_jobs)]

    def lend(self) -> dict[str, str] | None:
        """Environment variables of a trial, None when everything is lent."""
        return self._free.pop() if self._free else None

    def give_back(self, lent: dict[str, str]) -> None:
        """Take back what `lend` gave."""
        self._free.append(lent)


def gpu_ids(visible: str | None) -> list[str]:
    """The GPUs of this machine, or those of them that `CUDA_VISIBLE_DEVICES` names."""
    if visible:
        return [gpu for gpu in visible.split(",") if gpu.strip()]
    return [str(gpu) for gpu in range(torch.cuda.device_count())]
