"""Checkpoints of a run: durable files, their retention, and resuming from them."""

from project.engine.checkpoints.checkpoint import RunCheckpoint, use_folder
from project.engine.checkpoints.durable import DurableCheckpointIO, read_valid
from project.engine.checkpoints.epoch_metrics import restore_sums, save_sums
from project.engine.checkpoints.finite import FiniteLoss
from project.engine.checkpoints.newest import best_checkpoint, newest_checkpoint
from project.engine.checkpoints.resume import (
    CurrentSettings,
    check_not_complete,
    check_optimizer,
    check_weights,
    data_state,
    is_within_epoch,
)
from project.engine.checkpoints.retention import remove_checkpoints, strip_optimizer_state

__all__ = [
    "CurrentSettings",
    "DurableCheckpointIO",
    "FiniteLoss",
    "RunCheckpoint",
    "best_checkpoint",
    "check_not_complete",
    "check_optimizer",
    "check_weights",
    "data_state",
    "is_within_epoch",
    "newest_checkpoint",
    "read_valid",
    "remove_checkpoints",
    "restore_sums",
    "save_sums",
    "strip_optimizer_state",
    "use_folder",
]
