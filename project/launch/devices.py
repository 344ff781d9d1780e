"""Which devices a strategy gets on this machine, and combinations that cannot work."""

import os
import sys
from importlib.util import find_spec
from typing import Any

import torch
from jsonargparse import Namespace

CPU_CORES = "PROJECT_CPU_CORES"  # cores that this process may use, set for each trial of a sweep
_CPU_PROCESSES = 2


def devices_for(trainer: Namespace) -> dict[str, Any]:
    """Arguments of the trainer that depend on the machine.

    The settings stay as they are, so that a run's configuration holds on another machine too. Without a
    GPU the strategies of several processes get two processes on the CPU.

    Args:
        trainer: The settings of the trainer.

    Raises:
        ValueError: The devices do not exist, or cannot do what is asked of them.
    """
    accelerator, devices = trainer.accelerator, trainer.devices
    one_process = trainer.strategy == "auto"
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if accelerator in ("gpu", "cuda", "mps", "tpu") and not torch.accelerator.is_available():
        raise ValueError(f"--trainer.accelerator: got {accelerator}, but torch finds none here; use auto or cpu")
    if one_process and (str(devices) not in ("auto", "1", "[0]") or trainer.num_nodes > 1):
        raise ValueError(
            f"--devices: got {devices} on {trainer.num_nodes} node(s), but --strategy single is one process on one "
            "device; add --strategy ddp or --strategy fsdp"
        )
    if on_cpu and str(trainer.precision) in ("16", "16-mixed", "16-true"):
        raise ValueError(f"--precision: got {trainer.precision}, which needs a GPU; on a CPU use bf16-mixed")
    if str(trainer.precision).startswith("transformer-engine") and not find_spec("transformer_engine"):
        raise ValueError(
            f"--precision: got {trainer.precision}, which needs the package transformer_engine; use bf16-mixed"
        )
    if trainer.sync_batchnorm and (on_cpu or one_process):
        raise ValueError("--trainer.sync_batchnorm: got true, which needs several GPUs; leave it out")
    if not on_cpu or one_process:
        return {}
    if str(devices).isdigit() and int(devices) > max(usable_cores(), _CPU_PROCESSES):
        raise ValueError(f"--devices: got {devices}, but there are {usable_cores()} CPU cores and no GPU here")
    return {"accelerator": "cpu", "devices": _CPU_PROCESSES if devices == "auto" else devices}


def usable_cores() -> int:
    """CPU cores that this process may use: its share of them in a sweep, else those that it may run on."""
    if share := os.environ.get(CPU_CORES):
        return int(share)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
