"""Benchmark of a training step: a hand-written loop, Lightning's Trainer alone, and `project.fit`."""
