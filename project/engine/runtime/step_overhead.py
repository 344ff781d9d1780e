"""The removal of work that Lightning does in each training step without an effect."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning import Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from typing_extensions import override

from project.engine import compat


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing; Lightning's makes a generator for each of 70 actions per step."""

    _nothing = nullcontext()

    @override
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


def reduce_step_overhead(trainer: Trainer) -> None:
    """Reduce what a step costs in addition to the training itself; `python -m benchmarks.step` measures it."""
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
    compat.keep_logged_values_in_place()
    compat.call_hooks_directly()
    if not torch.cuda.is_available():
        # Each step of an optimizer asks whether there is a GPU. With this variable, which Lightning sets, torch
        # searches NVIDIA's library each time.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
