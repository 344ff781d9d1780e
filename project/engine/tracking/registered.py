"""Registered models: their versions, and descriptions, which MLflow does not take from logged models."""

import json
import re
from math import isfinite

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from project.engine.tracking import store
from project.engine.tracking.description import TAG
from project.engine.tracking.names import BEST

_LONGEST_NAME = 256


def check_name(client: MlflowClient, name: str) -> None:
    """Raise ValueError unless a model can be registered by a name.

    Args:
        client: Client of the store.
        name: The name.

    Raises:
        ValueError: The store refuses the name, or has no model registry.
    """
    if not name or set(name) & set("@/:") or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"--register: got {name[:_LONGEST_NAME]!r}; a name has 1 to {_LONGEST_NAME} characters, and none of @ / :, "
            "which divide models:/NAME@ALIAS"
        )
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise ValueError(f"--register: got {name!r}: {store.reason(error)}; give another name") from error
        if client.get_prompt(name) is not None:
            raise ValueError(f"--register: got {name!r}, which is the name of a prompt; give another name") from error


def models_of_best(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """Return the logged models of a run with the weights of its best checkpoint; a resumed run may have others."""
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    # MLflow stores NaN as 0 with a model.
    now = {name: value for name, value in run.data.metrics.items() if name.startswith(BEST) and isfinite(value)}
    return [
        model
        for model in models
        if model.status == LoggedModelStatus.READY
        and all(now.get(one.key, one.value) == one.value for one in model.metrics or ())
    ]


def logged_model(client: MlflowClient, run: Run) -> LoggedModel:
    """Return the newest logged model of a run's best checkpoint.

    Raises:
        ValueError: The run has none.
    """
    run_id = run.info.run_id
    if models := models_of_best(client, run):
        return max(models, key=lambda model: model.creation_timestamp)
    error = run.data.tags.get("model.error")
    why = f" ({error})" if error else f" (it is {run.info.status}: resume it)" if run.info.status != "FINISHED" else ""
    raise ValueError(
        f"--register: run {run_id} has no logged model of its best checkpoint{why}; its task declares none to serve, "
        "or the store was down, and python -m project.sync delivers it"
    )


def register(client: MlflowClient, run: Run, name: str) -> tuple[ModelVersion, bool]:
    """Register the newest logged model of a run, unless it or another one of its checkpoint is a version already.

    Returns:
        The version, and whether it is new.

    Raises:
        ValueError: The run has no logged model.
        MlflowException: The store does not respond, or refuses the name.
    """
    model, run_id = logged_model(client, run), run.info.run_id
    same = {model.model_id}
    if any(metric.key.startswith(BEST) for metric in model.metrics or ()):  # Otherwise, the checkpoint is unknown.
        same = {one.model_id for one in models_of_best(client, run)}
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name and model_id(version) in same:
            return version, False
    try:
        client.create_registered_model(name, description=model.tags.get(TAG))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or client.get_prompt(name) is not None:
            raise
    with store.as_default():
        version = client.create_model_version(
            name, model.model_uri, run_id, description=model.tags.get(TAG), model_id=model.model_id
        )
    # The page of the logged model links its versions by this tag, as after `mlflow.register_model`.
    links = [*json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]")), {"name": name, "version": version.version}]
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(links)})
    return version, True


def describe_as(client: MlflowClient, version: ModelVersion) -> None:
    """Describe a registered model as one of its versions, unless a person wrote its description."""
    name = version.name
    known = {one.description for one in client.search_model_versions() if one.name == name}
    if version.description and client.get_registered_model(name).description in (None, "", *known):
        client.update_registered_model(name, version.description)


def model_id(version: ModelVersion) -> str:
    """Return the id of the logged model that a version comes from; empty if it is unknown."""
    # The source is `models:/ID`, or the folder of the model's artifacts if MLflow's page has registered it.
    found = re.search(r"\bm-[0-9a-f]{32}\b", version.source or "")
    return found[0] if found else ""
