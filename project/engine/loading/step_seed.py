"""The seed of each training step, for random draws outside of loading, such as dropout.

The draws of a step depend only on seed, step and rank. A resumed run therefore draws the same numbers, and no generator
state has to be saved.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from project.engine.loading.counter_rng import global_seed, step_seed


class StepSeed(Callback):
    """A callback that seeds torch's generators at the start of each training step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        seed = step_seed(global_seed(), step, trainer.global_rank)
        # torch.manual_seed is slow: it records the stack for each kind of device that is absent, in each step.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
