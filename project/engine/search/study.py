"""A study in its storage, the names of what it holds, and its links to MLflow for optuna-dashboard."""

import warnings
from collections.abc import Mapping, Sequence
from uuid import uuid4

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.settings import flatten
from project.engine.compat import save_note, set_system_attr, system_attrs
from project.engine.search.space import SearchSpace
from project.engine.tracking import store
from project.engine.tracking.names import parameter_text
from project.engine.tracking.secrets import redact_setting

# The trials that count; failed ones are run again or replaced by others.
DONE_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
_RANGE = "search."  # Prefix of the settings that are the search space.
# User attributes, which dashboards show: of the study, and of its trials.
MLFLOW_RUN = "mlflow_run"
RUN_ID, ERROR, RETRIES, RETRY_OF = "run_id", "error", "retries", "retry_of"
# Settings that may differ between two sweeps of one study.
_WITHOUT_EFFECT = (".root", ".workers.num", ".enable_progress_bar", ".enable_model_summary", ".log_every_n_steps")
_SETTINGS = "settings"  # A system attribute, because it is too long for a dashboard.
_MARK = "mark"  # A system attribute, because dashboards have no use for it.


def open_study(storage: BaseStorage, name: str, space: SearchSpace, settings: Mapping[str, str]) -> optuna.Study:
    """Create the study, or load it if it has the same settings.

    Args:
        storage: The storage.
        name: Name of the study.
        space: The search space.
        settings: Settings that all trials share.

    Raises:
        ValueError: The storage has a study of this name with other settings.
    """
    directions = list(space.directions.values())
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, sampler=space.sampler, pruner=space.pruner,
        load_if_exists=True,
    )  # fmt: skip
    before = system_attrs(study).get(_SETTINGS)
    if (other := [direction.name.lower() for direction in study.directions]) != directions:
        raise ValueError(f"--study: {name} has the directions {', '.join(other)}; name another study with --study")
    if before is None:
        set_system_attr(study, _SETTINGS, dict(settings))
    elif before != settings:
        raise ValueError(f"--study: {name} {_difference(before, settings)}")
    else:
        study.sampler.reseed_rng()  # The study has the first draws of this seed already.
    return study


def mark_of(study: optuna.Study) -> str:
    """Return a text that no other study has; the tags of its run have it before the study has the id of the run."""
    mark: str | None = system_attrs(study).get(_MARK)
    if mark is None:
        set_system_attr(study, _MARK, mark := uuid4().hex)
    return mark


def settings_of_study(built: FitCLI, space: SearchSpace) -> dict[str, str]:
    """Return the settings that all trials share; a study with other settings is another study."""
    ranges = {f"{_RANGE}{key}": str(d) for key, d in space.distributions.items()}
    fixed = {
        key: redact_setting(key, parameter_text(value))
        for key, value in flatten(built.config).items()
        if key not in space.distributions and not key.endswith(_WITHOUT_EFFECT)
    }
    return {f"{_RANGE}metric": str(space.directions), **ranges, **fixed, "data.digest": built.data.digest()}


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describe the first difference between the settings of a study and those of a sweep, and its remedy."""
    differing = sorted({key for key, _ in before.items() ^ now.items()})
    first = next((key for key in differing if key.startswith(_RANGE)), differing[0])
    old, new = (settings.get(first, "nothing") for settings in (before, now))
    name = first.removeprefix("groups.")
    return (
        f"has {name} {old}, but this sweep has {new}; name another study with --study, or keep the options and "
        "the version of this project"
    )


def training_command(trial: FrozenTrial) -> str:
    """Return the command that trains with the settings of a trial, also if YAML files have changed since then."""
    return f"python -m project.fit --rerun {trial.user_attrs[RUN_ID]}"


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
