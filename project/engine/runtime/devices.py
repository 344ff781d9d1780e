"""The devices of a strategy on this machine, and the check for impossible combinations."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from project.engine.runtime.launcher import Launcher, launcher

CPU_CORES = "PROJECT_CPU_CORES"  # cores that this process may use, set for each trial of a sweep
_CPU_PROCESSES = 2
_ALL = ("auto", "-1", -1)


def devices_for(trainer: Namespace) -> dict[str, Any]:
    """Return the arguments of the trainer that depend on the machine, and on what torchrun or SLURM started.

    The settings are not changed, so that the configuration of a run is also valid on another machine. Without a GPU,
    strategies with several processes get two processes on the CPU.

    Args:
        trainer: The settings of the trainer.

    Raises:
        ValueError: The devices do not exist, do not support a setting, or differ from those that were started.
    """
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    if trainer.accelerator in ("gpu", "cuda", "mps", "tpu") and not torch.accelerator.is_available():
        raise ValueError(
            f"--trainer.accelerator: got {trainer.accelerator}, but torch finds no such device here; use auto or cpu"
        )
    _check_precision(str(trainer.precision), on_cpu=on_cpu)
    count, started = _count(trainer.devices), launcher()
    if trainer.sync_batchnorm and (on_cpu or trainer.strategy == "auto"):
        raise ValueError("--trainer.sync_batchnorm: got true, which needs several GPUs; leave it out")
    if trainer.strategy == "auto":
        return _one_device(trainer, count, started, on_cpu=on_cpu)
    if started is not None:
        _check_matches_launcher(trainer, count, started)
        count, nodes = started.devices, started.nodes
    else:
        nodes = trainer.num_nodes
        if nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
            raise ValueError(
                f"--trainer.num_nodes: got {nodes}, but nothing started processes on other nodes; start this command "
                "with torchrun --nnodes or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
            )
        if on_cpu and count is not None and count > max(usable_cores(), _CPU_PROCESSES):
            raise ValueError(f"--devices: got {count}, but there are {usable_cores()} CPU cores and no GPU here")
    if on_cpu:
        return {"accelerator": "cpu", "devices": count or _CPU_PROCESSES, "num_nodes": nodes}
    indices = not str(trainer.devices).isdigit() and trainer.devices not in _ALL
    return {"devices": trainer.devices if indices or count is None else count, "num_nodes": nodes}


def _count(devices: Any) -> int | None:
    """Return the number of devices in a setting; None for all devices.

    Raises:
        ValueError: The setting is neither a number nor a list of indices.
    """
    if devices in _ALL:
        return None
    text = str(devices).strip("[] ")
    if text.isdigit() and not isinstance(devices, list) and int(text) > 0:
        return int(text)
    indices = [index.strip() for index in text.rstrip(",").split(",")]
    is_list = (isinstance(devices, list) or "," in text) and all(map(str.isdigit, indices))
    if is_list and len({int(index) for index in indices}) == len(indices):
        return len(indices)
    raise ValueError(
        f"--devices: got {devices}; give a number, 1 or more, or auto, or different indices of GPUs such as [0,1]"
    )


def _one_device(trainer: Namespace, count: int | None, started: Launcher | None, *, on_cpu: bool) -> dict[str, Any]:
    """Return the device of `--strategy single`."""
    if started is not None and started.processes > 1:
        raise ValueError(
            f"--strategy single: is one process, but {started.name} started {started.processes}; use --strategy ddp or "
            "--strategy fsdp, or start one process"
        )
    if count is None:
        count = 1 if on_cpu or trainer.devices == "auto" else torch.accelerator.device_count()
    if count > 1 or trainer.num_nodes > 1:
        raise ValueError(
            f"--devices: got {trainer.devices} on {trainer.num_nodes} node(s), but --strategy single is one process on "
            "one device; add --strategy ddp or --strategy fsdp"
        )
    index = not on_cpu and not str(trainer.devices).isdigit() and trainer.devices not in _ALL
    return {"devices": trainer.devices if index else 1}


def _check_matches_launcher(trainer: Namespace, count: int | None, started: Launcher) -> None:
    """Raise ValueError for settings that contradict the processes that were started."""
    if count not in (None, started.devices):
        raise ValueError(
            f"--devices: got {trainer.devices}, but {started.name} started {started.devices} process(es) on each node; "
            "leave --devices out, or start as many"
        )
    if trainer.num_nodes not in (1, started.nodes):
        raise ValueError(
            f"--trainer.num_nodes: got {trainer.num_nodes}, but {started.name} started {started.nodes} node(s); leave "
            "it out"
        )
    if started.name == "SLURM" and started.processes == 1 and count is None:
        raise ValueError(
            "--strategy: got several processes, but SLURM started 1 task; give sbatch --ntasks-per-node=N and start "
            "with srun, or use --devices 1 or --strategy single"
        )


def _check_precision(precision: str, *, on_cpu: bool) -> None:
    if on_cpu and precision in ("16", "16-mixed", "16-true"):
        raise ValueError(f"--precision: got {precision}, which needs a GPU; on a CPU use bf16-mixed")


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores for this process: its share in a sweep, else its affinity and container quota.

    Args:
        cgroups: Folder in which the control groups of this container are mounted.
    """
    if share := os.environ.get(CPU_CORES):
        return int(share)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_quota(cgroups))))


def _cpu_quota(cgroups: Path) -> float:
    """Return the quota of the control group in CPU cores; infinite without a quota, or before version 2."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)
