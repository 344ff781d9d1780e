"""A trial is a fit in a process of its own, and a child run of the study's run."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from mlflow import MlflowClient

_LAST_CHARACTERS = 400


def run_trial(
    trial: optuna.Trial, options: Sequence[str], metric: str, client: MlflowClient, parent_id: str, log: Path
) -> float:
    """Train with the trial's parameters and return the metric of its run.

    Args:
        trial: Asked with the whole space; its parameters are named like settings of `fit`.
        options: Options of `fit` that all trials share.
        metric: Name of the metric that the study judges by.
        client: The store that the fit logs to.
        parent_id: The study's run.
        log: File for what the fit prints.

    Raises:
        RuntimeError: The fit failed, or left no such metric.
    """
    tags = {"mlflow.parentRunId": parent_id, "study": trial.study.study_name, "trial": str(trial.number)}
    parameters = [f"--{key}={value}" for key, value in trial.params.items()]
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "project.fit", *options, *parameters],
            env=os.environ | {"MLFLOW_RUN_CONTEXT": json.dumps(tags)},  # MLflow adds these tags to the run
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}; see {log}: {log.read_text()[-_LAST_CHARACTERS:].strip()}")
    parent = client.get_run(parent_id)
    (run,) = client.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent_id}' and tags.trial = '{trial.number}'",
    )
    trial.set_user_attr("run_id", run.info.run_id)
    if metric not in run.data.metrics:
        raise RuntimeError(f"the run has no metric {metric}; it has {', '.join(sorted(run.data.metrics))}")
    return float(run.data.metrics[metric])
