"""The descriptions of registered models, which MLflow does not take from the logged models that they come from."""

import re

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.description import TAG


def describe_registered_models(client: MlflowClient) -> None:
    """Describe registered models and versions that have no description; those that a person wrote are kept.

    MLflow's page registers a model without a description, so this is done when a command opens the store.
    """
    with best_effort(None, "registered models", "registered models have no descriptions"):
        newest: dict[str, str] = {}
        for version in sorted(client.search_model_versions(), key=lambda one: int(one.version)):
            if note := version.description or _note_of(client, version):
                newest[version.name] = note
                if not version.description:
                    client.update_model_version(version.name, version.version, note)
        for model in client.search_registered_models() if newest else ():
            if not model.description and model.name in newest:
                client.update_registered_model(model.name, newest[model.name])


def _note_of(client: MlflowClient, version: ModelVersion) -> str:
    """Return the description of the logged model that a version comes from; empty if it has none."""
    # The source is `models:/ID`, or the folder of the model's artifacts if MLflow's page has registered it.
    found = re.search(r"\bm-[0-9a-f]{32}\b", version.source or "")
    return str(client.get_logged_model(found[0]).tags.get(TAG, "")) if found else ""
