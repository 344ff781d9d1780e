"""Checkpoints of a run, and what stops it: signals, and a loss that is no number."""

from project.checkpoints.checkpoint import RunCheckpoint, use_folder
from project.checkpoints.durable import DurableCheckpointIO
from project.checkpoints.epoch_metrics import restore_sums, save_sums
from project.checkpoints.finite import FiniteLoss
from project.checkpoints.interrupt import STOP_SIGNALS, Interrupted, Interrupts, exit_code, stop_signals
from project.checkpoints.newest import newest_checkpoint
from project.checkpoints.resume import CurrentSettings, check_fits, check_not_complete, data_state
from project.checkpoints.retention import remove_checkpoints, strip_optimizer_state

__all__ = [
    "STOP_SIGNALS",
    "CurrentSettings",
    "DurableCheckpointIO",
    "FiniteLoss",
    "Interrupted",
    "Interrupts",
    "RunCheckpoint",
    "check_fits",
    "check_not_complete",
    "data_state",
    "exit_code",
    "newest_checkpoint",
    "remove_checkpoints",
    "restore_sums",
    "save_sums",
    "stop_signals",
    "strip_optimizer_state",
    "use_folder",
]
