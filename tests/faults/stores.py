"""What tests ask of a tracking store."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import clean_environment
from mlflow import MlflowClient


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def synced(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "project.sync"],
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
