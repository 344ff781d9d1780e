"""Queries of tests to a tracking store."""

import os
from pathlib import Path

from commands import Command
from conftest import Fit, clean_environment
from mlflow import MlflowClient


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def synced(folder: Path) -> Fit:
    environment = clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    command = Command("project.sync", folder=folder, environment=environment)
    output, _ = command.communicate()
    return Fit(folder, command.wait(), output)
