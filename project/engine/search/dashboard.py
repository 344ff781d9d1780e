"""The additions to a study for optuna-dashboard: names of metrics, and links to MLflow."""

import warnings
from collections.abc import Sequence

import optuna
from optuna.exceptions import ExperimentalWarning

from project.engine.compat import save_note
from project.engine.search.study import RUN_ID
from project.engine.tracking import store


def run_address(run_id: str) -> str:
    """Return the address of a run's page: on the MLflow server, or where `project.ui` usually serves it."""
    return f"{store.server_address() or store.UI}/#/runs/{run_id}?workflowType=machine_learning"


def introduce_study(study: optuna.Study, metrics: Sequence[str], run_id: str, command: str) -> None:
    """Name the metrics of a study, and write its note, with a link to its MLflow run."""
    if study.metric_names != list(metrics):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(metrics))
    goals = (f"{way.name.lower()} {metric}" for metric, way in zip(metrics, study.directions, strict=True))
    save_note(study, (
        f"Goal: {', '.join(goals)}.\n\n"
        f"[MLflow run of the study]({run_address(run_id)}) (`python -m project.ui` serves it)\n\n"
        f"Continue the study with\n\n```\n{command}\n```\n"
    ))  # fmt: skip


def set_run(trial: optuna.Trial, run_id: str) -> None:
    """Record the MLflow run of a trial, and write the trial's note, with a link to it."""
    trial.set_user_attr(RUN_ID, run_id)
    save_note(trial.study, f"[MLflow run of trial {trial.number}]({run_address(run_id)})", trial)
