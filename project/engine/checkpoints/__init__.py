"""Checkpoints of a run: durable files, their retention, and resuming from them."""
