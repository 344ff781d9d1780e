"""The share of the machine that each trial gets: its own GPUs, and an equal number of CPU cores."""

import os
from collections.abc import Sequence

import torch

from project.engine.cli.fit_cli import FitCLI
from project.engine.runtime.devices import CPU_CORES, usable_cores

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_MIG = "MIG-"


class Devices:
    """The machine, divided among trials that run at the same time.

    Args:
        n_jobs: Number of trials that run at the same time.
        per_trial: Number of processes of one trial; each has a GPU if there are any.
        cores: Number of CPU cores to divide.
        gpus: Names of the GPUs; empty if the machine has none.

    Attributes:
        threads: CPU threads of each process of a trial.

    Raises:
        ValueError: There are not enough GPUs.
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
        """Number of trials that can start now."""
        return len(self._free)

    def acquire(self) -> dict[str, str]:
        """Return the environment variables that give a trial its part of the machine; one must be free."""
        return self._free.pop()

    def release(self, share: dict[str, str]) -> None:
        """Free a part of the machine that `acquire` returned."""
        self._free.append(share)


def gpu_ids(visible: str | None, count: int) -> list[str]:
    """Return the names of the GPUs that trials may use, for `CUDA_VISIBLE_DEVICES` of a trial.

    CUDA ignores the first name in the variable that does not exist, and all names after it. It uses no GPU if a name
    is repeated.

    Args:
        visible: `CUDA_VISIBLE_DEVICES` of this process; None if it is not set.
        count: Number of GPUs that CUDA shows to this process.
    """
    if visible is None:
        return [str(gpu) for gpu in range(count)]
    names = [name.strip() for name in visible.split(",")]
    if names[0].startswith(_MIG) and count:
        # CUDA shows only the first MIG device to a process, but another process can use the next one.
        return [name for name in dict.fromkeys(names) if name.startswith(_MIG)]
    return names[:count]


def devices_for_trials(built: FitCLI, n_jobs: int) -> Devices:
    """Divide GPUs and cores among trials that run at the same time.

    Args:
        built: The fit of each trial.
        n_jobs: Number of trials.

    Raises:
        ValueError: There are not enough GPUs, or the settings name GPUs.
    """
    gpus: list[str] = []
    if built.trainer.strategy.root_device.type == "cuda":
        gpus = gpu_ids(os.environ.get(_VISIBLE_GPUS), torch.cuda.device_count())
        if not str(devices := built.config.trainer.devices).isdigit() and devices != "auto":
            raise ValueError(
                f"--devices: got {devices}, but a sweep assigns GPUs itself; give their number per trial, and name "
                "the GPUs to use in CUDA_VISIBLE_DEVICES"
            )
    return Devices(n_jobs, built.trainer.num_devices, usable_cores(), gpus)
