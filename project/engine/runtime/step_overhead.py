"""The removal of work that Lightning does in each training step without an effect."""

import os

import torch

from project.engine import compat


def reduce_step_overhead() -> None:
    """Reduce what a step costs in addition to the training itself; `python -m benchmarks.step` measures it."""
    compat.keep_logged_values_in_place()
    compat.call_hooks_directly()
    compat.inspect_hooks_once()
    compat.check_log_once_per_epoch()
    if not torch.cuda.is_available():
        # Each step of an optimizer asks whether there is a GPU. With this variable, which Lightning sets, torch
        # searches NVIDIA's library each time.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
