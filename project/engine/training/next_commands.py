"""The commands that a person may need after a fit, with the run's own id and settings."""

import json
import shlex
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import Trainer

from project.engine.cli import config_groups
from project.engine.cli.fit_cli import FitCLI, flatten
from project.engine.task import Task
from project.engine.tracking.secrets import redact_options

_BATCH_SIZE = "data.batch_size"
_TRIALS = ("--n_trials", "8", "--n_jobs", "2")


def next_commands(cli: FitCLI, run_id: str | None) -> dict[str, str]:
    """Return commands that continue the work on a run, by label, in the order to show them.

    Args:
        cli: The fit, after its training.
        run_id: Its MLflow run; None if nothing is tracked.
    """
    commands = {"view": ["project.ui"]} if run_id else {}
    if run_id:
        if cli.trainer.limit_test_batches:  # An evaluation has the settings of the run.
            commands["evaluate"] = ["project.evaluate", run_id]
        if isinstance(cli.model, Task) and "image_size" in cli.model.from_data:
            commands["predict"] = ["project.predict", run_id, "DIR"]
        if isinstance(cli.model, Task) and cli.model.serving_names():
            commands["export"] = ["project.export", run_id]
        commands["resume"] = ["project.fit", "--resume", run_id, *_higher_limits(cli.trainer)]
        if cli.command.rerun:
            commands["compare"] = ["project.compare", cli.command.rerun, run_id]
    if space := _search_space(cli):
        commands["search"] = ["project.sweep", "--search", space, *_own_options(cli, space), *_TRIALS]
    return {label: shlex.join(["python", "-m", *words]) for label, words in commands.items()}


def _higher_limits(trainer: Trainer) -> list[str]:
    """Return options that double the limits at which the training ended; a run at its limit cannot be resumed."""
    epochs, steps = trainer.max_epochs or 0, trainer.max_steps
    limits = ["--trainer.max_steps", str(2 * steps)] if 0 < steps <= trainer.global_step else []
    if epochs > 0 and (trainer.current_epoch >= epochs or not limits):
        limits += ["--max_epochs", str(2 * epochs)]
    return limits


def _search_space(cli: FitCLI) -> str | None:
    """Return the search space with the name of the model, or else the first general one that suits the fit."""
    own, of_models = str(cli.config.groups.model), config_groups.choices("model")
    names = [own, *(name for name in config_groups.choices("search") if name not in of_models)]
    return next((name for name in names if _suits(_space(name), cli)), None)


def _space(name: str) -> Mapping[str, Any]:
    """Return the content of a search space's file; empty if it is not valid, which only a sweep reports."""
    try:
        content = _parsed(config_groups.file_of("search", name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("space"), dict) else {}


@lru_cache  # Each fit needs the same spaces several times.
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)


def _suits(space: Mapping[str, Any], cli: FitCLI) -> bool:
    """Return whether a space covers the settings of the fit, which has its metrics, and images for its batches.

    It varies a setting of data or model; a space of seeds measures noise.
    """
    metrics, settings = space.get("metric", []), flatten(cli.config)
    logged = cli.model.logged_metrics() if isinstance(cli.model, Task) else set(cli.trainer.callback_metrics)
    wanted = {metrics} if isinstance(metrics, str) else set(metrics)
    return (
        bool(wanted)
        and wanted <= logged
        and set(space["space"]) <= set(settings)
        and any(name.partition(".")[0] in config_groups.CLASSES for name in space["space"])
        and all(_covers(values, settings[name]) for name, values in space["space"].items())
        and _largest(space["space"].get(_BATCH_SIZE)) <= cli.data.sizes().get("train", sys.maxsize)
    )


def _covers(values: Any, value: Any) -> bool:
    """Return whether a range of a search space contains the fit's value; zero means an unused setting."""
    low, high = (values.get("low"), values.get("high")) if isinstance(values, dict) else (None, None)
    if not value or not all(isinstance(one, int | float) for one in (low, value, high)):
        return True
    return bool(low <= value <= high)


def _largest(values: Any) -> float:
    """Return the largest number in a range of a search space; 0 without numbers."""
    values = values if isinstance(values, dict) else {}
    ends = [*(values.get("choices") or []), values.get("high")]
    return max((end for end in ends if isinstance(end, int | float)), default=0)


def _own_options(cli: FitCLI, space: str) -> list[str]:
    """Return the data, the model and their changed settings as options, without those that a search space varies."""
    settings, varied, changed = flatten(cli.config), _space(space)["space"], cli.changed_settings()
    experiment = settings["groups.experiment"]
    of_experiment = str(config_groups.file_of("experiment", experiment)) if experiment else ""
    words: list[str] = []
    for group in config_groups.CLASSES:
        chosen = _choice(cli, group, settings)
        words += [] if chosen == of_experiment else [f"--{group}", chosen]
        if changed.get(group, chosen) != chosen:
            words += [f"--{group}.class_path", str(changed[group])]
        for key, value in changed.items():
            if key.startswith(f"{group}.") and key not in varied:
                words += _as_option(cli, key, value)
    return redact_options([*words, *(["--experiment", experiment] if experiment else [])])


def _as_option(cli: FitCLI, key: str, value: Any) -> list[str]:
    """Return a setting as an option; lists and mappings as given, because their classes have many defaults."""
    if isinstance(value, list | dict | Namespace):
        given = {
            option: option.removeprefix("--").partition("=")[0].removesuffix("+") for option in cli.command.changes
        }
        if typed := [option for option, name in given.items() if f"{name}.".startswith(f"{key}.")]:
            return typed
    return [f"--{key}", _text(value)]


def _choice(cli: FitCLI, group: str, settings: Mapping[str, Any]) -> str:
    """Return the value of `--data` or `--model`: the name of a choice, a YAML file, or the path of a class."""
    typed, name = cli.command.groups[group], str(settings[f"groups.{group}"])
    if typed.endswith(".yaml") and Path(typed).exists():  # The settings of a resumed run are in a temporary file.
        return typed
    try:
        config_groups.choice(group, name)
    except ValueError:
        return str(settings[group])
    return name


def _text(value: Any) -> str:
    """Return a setting as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else str(value)
