"""The MLflow store: where it is, whether it answers, and what this project keeps beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from project.tracking.secrets import redact

HOME = Path("mlruns")
CONFIG_FILE = "config.yaml"
# MLflow reads these at each request; its own patience is seven retries of up to two minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else a SQLite file in `mlruns/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{HOME.absolute()}/mlflow.db"


def checkpoint_folder(run_id: str) -> Path:
    """Where a run keeps its checkpoints."""
    return HOME / "checkpoints" / run_id


def spool_folder(run_id: str) -> Path:
    """Where a run keeps what the store has not yet."""
    return HOME / "spool" / run_id


def be_impatient() -> None:
    """Make MLflow give up on a request after seconds; the spool tries again. Settings of the user's stay."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)


def connect() -> MlflowClient:
    """Open the store and ask it something.

    Raises:
        OSError: It does not answer within seconds.
    """
    uri = tracking_uri()
    # MLflow makes a database's tables at the first look; two processes at once would break each other's.
    HOME.mkdir(exist_ok=True)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with _impatient(), FileLock(HOME / ".store.lock"):
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except MlflowException as error:
            reason = str(error).splitlines()[0][:200]
            raise OSError(
                f"MLFLOW_TRACKING_URI: no MLflow store answers at {redact(uri)} ({redact(reason)}); "
                "start it, or unset the variable to track in mlruns/"
            ) from error
    return client


def find_run(client: MlflowClient, run_id: str) -> Run:
    """Look a run up.

    Raises:
        ValueError: The store has no such run.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(
            f"got run {run_id!r}, which is not in {redact(tracking_uri())}; see them with python -m project.ui"
        ) from error


def config_of(run_id: str, folder: str) -> Path:
    """Download the settings of a run into a folder.

    Raises:
        ValueError: The store has no such run, or the run has no settings.
    """
    client = connect()
    find_run(client, run_id)
    try:
        return Path(client.download_artifacts(run_id, CONFIG_FILE, folder))
    except (MlflowException, OSError) as error:
        raise ValueError(f"run {run_id} has no artifact {CONFIG_FILE}, so it was not made by project.fit") from error


def experiment_id(client: MlflowClient, name: str) -> str:
    """Find the experiment, or make it; artifacts of a local store go to `mlruns/artifacts/`.

    Raises:
        ValueError: The experiment is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        local = not tracking_uri().startswith(("http://", "https://", "databricks"))
        folder = (HOME / "artifacts" / name).absolute().as_uri() if local else None
        # The UI opens such an experiment as model training, with charts.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=folder, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"MLflow experiment {name!r} is deleted; restore it with "
            f"mlflow experiments restore -x {experiment.experiment_id}, or name another with --experiment"
        )
    return str(experiment.experiment_id)


@contextmanager
def _impatient() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _PATIENCE}
    os.environ.update(_PATIENCE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
