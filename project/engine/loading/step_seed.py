"""What a step draws outside of loading, dropout above all, follows from seed, step and rank.

So a run that is stopped and resumed draws what it would have drawn, with no state of any generator to save.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from project.engine.loading.counter_rng import global_seed, sample_keys

_SEEDS = 2**63


class StepSeed(Callback):
    """Seeds torch's generators at the start of each training step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        seed = int(sample_keys(global_seed(), step, torch.tensor([trainer.global_rank]))) % _SEEDS
        # Not torch.manual_seed: for each kind of device that is not there it writes down the stack, in each step.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
