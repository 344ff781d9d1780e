"""Checkpoints of a run: the last one and the best one."""

from project.checkpoints.checkpoint import RunCheckpoint, newest_checkpoint

__all__ = ["RunCheckpoint", "newest_checkpoint"]
