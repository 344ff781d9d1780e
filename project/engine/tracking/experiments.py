"""The experiments and the runs in the MLflow store."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from project.engine.tracking import store
from project.engine.tracking.secrets import redact
from project.engine.tracking.tags import BEST_RUN

NEWEST_FIRST = "attributes.start_time DESC"
_MOST_RUNS = 1000
_LONGEST_NOTE = 20_000  # MLflow's limit


def find_run(client: MlflowClient, run_id: str) -> Run:
    """Look up a run.

    Raises:
        ValueError: The store has no such run, or it is deleted.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(
            f"got run {run_id!r}, which is not in {redact(store.tracking_uri())}; list the runs with "
            "python -m project.ui"
        ) from error
    if run.info.lifecycle_stage == "deleted":
        raise ValueError(f"run {run_id} is deleted; restore it with MlflowClient().restore_run, or start a new run")
    return run


def newest_runs(client: MlflowClient, where: str = "", most: int = _MOST_RUNS) -> Sequence[Run]:
    """Return the runs of all experiments that match a filter of MLflow, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, where, max_results=most, order_by=[NEWEST_FIRST])


def settings_of(run_id: str) -> str:
    """Return the settings of a run as YAML; from its spool if the store may not have them yet.

    Raises:
        ValueError: The store has no such run, or the run has no settings.
    """
    client = store.connect_existing(run_id)
    best = find_run(client, run_id).data.tags.get(BEST_RUN)
    with suppress(FileNotFoundError):
        return (store.spool_folder(run_id) / "files" / store.CONFIG_FILE).read_text(encoding="utf-8")
    if settings := artifact_text(client, run_id, store.CONFIG_FILE):
        return settings
    study = f"; it is the run of a study, whose best trial is {best}" if best else ""
    raise ValueError(f"run {run_id} has no artifact {store.CONFIG_FILE}, so it was not made by project.fit{study}")


def artifact_text(client: MlflowClient, run_id: str, name: str) -> str:
    """Return an artifact as text; empty if the store does not have it."""
    with TemporaryDirectory() as folder, suppress(MlflowException, OSError):
        return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8", errors="replace")
    return ""


def experiment_name(chosen: str | None, default: str) -> str:
    """Choose the experiment: that of `--experiment`, else that of MLflow's environment variables, else the default.

    Raises:
        ValueError: No experiment has the given id.
        OSError: The store does not respond.
    """
    if chosen or (chosen := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        return chosen
    if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        try:
            return str(store.connect().get_experiment(number).name)
        except MlflowException as error:
            raise ValueError(
                f"MLFLOW_EXPERIMENT_ID: got {number}, which is not in {redact(store.tracking_uri())}; set "
                "MLFLOW_EXPERIMENT_NAME to create one"
            ) from error
    return default


def experiment_id(client: MlflowClient, name: str) -> str:
    """Find or create the experiment; artifacts of a local store are in `mlruns/artifacts/`.

    Raises:
        ValueError: The experiment is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        local = not store.tracking_uri().startswith(("http://", "https://", "databricks"))
        inside = name.replace("/", "-").lstrip(".") or "experiment"  # A name may look like a path to another folder.
        folder = (store.HOME / "artifacts" / inside).absolute().as_uri() if local else None
        # With this tag the UI shows the experiment as model training, with charts.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, artifact_location=folder, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # Another process has just created it.
                raise
            return experiment_id(client, name)
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"the MLflow experiment {name!r} is deleted; restore it: "
            f"MLFLOW_TRACKING_URI={redact(store.tracking_uri())} mlflow experiments restore "
            f"-x {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def describe_experiment(client: MlflowClient, experiment: str, note: str) -> None:
    """Set the description of an experiment that has none; one that a person wrote is kept."""
    if note and not client.get_experiment(experiment).tags.get(MLFLOW_RUN_NOTE):
        client.set_experiment_tag(experiment, MLFLOW_RUN_NOTE, note[:_LONGEST_NOTE])
