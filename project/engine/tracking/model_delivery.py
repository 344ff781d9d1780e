"""Delivery of a saved model: it becomes a logged model of its run, and a retry does not create another."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from project.engine.atomic import replace_file
from project.engine.compat import latest_metrics
from project.engine.tracking.store import long_timeout
from project.engine.tracking.tags import COMMIT, DIRTY


def send_model(
    client: MlflowClient, run_id: str, folder: Path, tags: Mapping[str, str], dataset: Sequence[str] | None
) -> None:
    """Log the MLflow model in a folder with the run's scores; continue what an earlier attempt created.

    Args:
        client: The store.
        run_id: The run that trained it.
        folder: Folder of the model; its name is that of the logged model.
        tags: Tags of the logged model.
        dataset: Name and digest of the dataset of the scores; None if it is unknown.
    """
    run = client.get_run(run_id)
    model = Model.load(str(folder))
    existing = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    begun = (m for m in existing if m.model_id == model.model_id or m.status == LoggedModelStatus.PENDING)
    logged = next(begun, None) or client.create_logged_model(
        run.info.experiment_id, name=folder.name, source_run_id=run_id, params=run.data.params
    )
    model.run_id, model.model_id = run_id, logged.model_id
    model.artifact_path = logged.artifact_location
    replace_file(folder / MLMODEL_FILE_NAME, lambda new: model.save(str(new)), flush=False)
    code = {name: value for name, value in run.data.tags.items() if name in (COMMIT, DIRTY)}
    if given := {**code, **tags}:
        client.set_logged_model_tags(logged.model_id, given)
    with long_timeout():
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    # Scores keep their timestamps. The last point of val/* may belong to another epoch than the model.
    scores = [m for m in latest_metrics(run) if m.key.startswith(("best/", "test/"))]
    name, digest = dataset or (None, None)
    of_model = [
        Metric(
            m.key, m.value, m.timestamp, m.step,
            model_id=logged.model_id, dataset_name=name, dataset_digest=digest, run_id=run_id,
        )
        for m in scores
    ]  # fmt: skip
    client.log_batch(run_id, of_model, synchronous=True)
    shown = [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
    if logged.model_id not in shown:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
