"""The commands that a person may need after a fit, with the run's own id and settings."""

import shlex
from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from project.engine.cli import config_groups, yaml_file
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.settings import flatten, listed, short_name
from project.engine.cli.trainer_checks import reason_against_resume
from project.engine.task import Task
from project.engine.tracking.secrets import redact_options

_NOT_REPEATED = ("checkpoint.", "trainer.fast_dev_run", "trainer.logger", "trainer.num_nodes")
"""Options of a fit that a sweep sets itself, or refuses."""
_BATCH_SIZE = "data.batch_size"


def next_commands(cli: FitCLI, run_id: str | None) -> dict[str, str]:
    """Return commands that continue the work on a run, by label, in the order to show them.

    Args:
        cli: The fit, after its training.
        run_id: Its MLflow run; None if nothing is tracked.
    """
    commands = {"view": ["project.ui"]} if run_id else {}
    if run_id:
        is_scored = any(is_overridden(step, cli.model) for step in ("validation_step", "test_step"))
        if is_scored and cli.trainer.limit_test_batches:  # An evaluation has the settings of the run.
            commands["evaluate"] = ["project.evaluate", run_id]
        if isinstance(cli.model, Task) and "image_size" in cli.model.from_data:
            commands["predict"] = ["project.predict", run_id, "DIR"]
        if isinstance(cli.model, Task) and cli.model.serving_names():
            commands["export"] = ["project.export", run_id]
        # The sweep decides whether a trial keeps the checkpoint to resume from.
        if not is_trial() and not reason_against_resume(cli.trainer.callbacks):  # type: ignore[attr-defined]
            commands["resume"] = ["project.fit", "--resume", run_id, *_higher_limits(cli.trainer)]
        if cli.command.rerun:
            commands["compare"] = ["project.compare", cli.command.rerun, run_id]
    if sweep := _search(cli):
        commands["search"] = sweep
    return {label: shlex.join(["python", "-m", *words]) for label, words in commands.items()}


def is_trial() -> bool:
    """Return whether this process trains a trial of a sweep."""
    return MLFLOW_PARENT_RUN_ID in resolve_tags({})


def _higher_limits(trainer: Trainer) -> list[str]:
    """Return options that double the limits at which the training ended; a run at its limit cannot be resumed."""
    epochs, steps = trainer.max_epochs or 0, trainer.max_steps
    limits = ["--trainer.max_steps", str(2 * steps)] if 0 < steps <= trainer.global_step else []
    if epochs > 0 and (trainer.current_epoch >= epochs or not limits):
        limits += ["--max_epochs", str(2 * epochs)]
    return limits


def _search(cli: FitCLI) -> list[str]:
    """Return a sweep on the same data and model, or nothing if no search space has settings and metrics of the fit.

    The space with the name of the model comes first, then those without the name of a model. Options are repeated
    as they were typed, without those that the space varies.
    """
    command, settings = cli.command, flatten(cli.config)
    if command.resume or command.rerun or is_trial():  # Most of their settings were not typed.
        return []
    logged = cli.model.logged_metrics() if isinstance(cli.model, Task) else set(cli.trainer.callback_metrics)
    general = set(config_groups.choices("search")) - set(config_groups.choices("model"))
    for name in (str(cli.config.groups.model), *sorted(general)):
        varied, metrics = _space(name)
        if varied and varied.keys() <= settings.keys() and metrics <= logged and _has_batches(cli, varied):
            options = [(short_name(option.removeprefix("--")), option, value) for option, value in command.pairs]
            kept = [pair for key, *pair in options if key not in varied and not key.startswith(_NOT_REPEATED)]
            words = [word for pair in kept for word in pair if word is not None]
            jobs = str(_parallel_trials(cli.trainer))
            return ["project.sweep", "--search", name, *redact_options(words), "--n_trials", "8", "--n_jobs", jobs]
    return []


def _parallel_trials(trainer: Trainer) -> int:
    """Return 2, or 1 if there are not enough GPUs for two trials with the devices of a fit."""
    gpus = torch.cuda.device_count() if trainer.strategy.root_device.type == "cuda" else inf
    return 2 if gpus >= 2 * trainer.num_devices else 1


def _has_batches(cli: FitCLI, varied: Mapping[str, Any]) -> bool:
    """Return whether train has enough samples for the largest batches of a search space."""
    values = varied.get(_BATCH_SIZE, {})
    sizes = [size for size in (*listed(values.get("choices")), values.get("high")) if isinstance(size, int)]
    return max(sizes, default=0) * cli.trainer.world_size <= cli.data.sizes().get("train", inf)


def _space(name: str) -> tuple[dict[str, Any], set[str]]:
    """Return the settings and the metrics of a search space; none if it is not valid, which only a sweep reports."""
    try:
        content = yaml_file.read(config_groups.file_of("search", name), "--search")
    except (OSError, ValueError):
        return {}, set()
    space, metrics = content.get("space"), content.get("metric")
    if not (isinstance(space, dict) and all(isinstance(values, dict) for values in space.values())):
        return {}, set()
    return space, set(map(str, metrics if isinstance(metrics, list) else [metrics]))
