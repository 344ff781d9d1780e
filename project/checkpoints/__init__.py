"""Checkpoints of a run, and what stops it: signals, and a loss that is no number."""

from project.checkpoints.checkpoint import RunCheckpoint, newest_checkpoint
from project.checkpoints.durable import DurableCheckpointIO
from project.checkpoints.finite import FiniteLoss
from project.checkpoints.interrupt import Interrupted, Interrupts

__all__ = ["DurableCheckpointIO", "FiniteLoss", "Interrupted", "Interrupts", "RunCheckpoint", "newest_checkpoint"]
