"""Tasks: each one has a loss, metrics, optimizer groups, reports and a served model."""

from project.engine.task import Task
from project.tasks.classification import ImageClassifier
from project.tasks.fast import FastClassifier, LinearDecay
from project.tasks.image import ImageTask
from project.tasks.muon import Muon

__all__ = ["FastClassifier", "ImageClassifier", "ImageTask", "LinearDecay", "Muon", "Task"]
