"""Tasks: each one has a loss, metrics, optimizer groups, reports and a served model."""

from project.engine.task import Task
from project.tasks.classification import ImageClassifier
from project.tasks.image import ImageTask

__all__ = ["ImageClassifier", "ImageTask", "Task"]
