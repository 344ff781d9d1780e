"""A study in its storage, and the names of what it holds."""

from collections.abc import Mapping

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from project.engine.compat import set_system_attr, system_attrs
from project.engine.search.space import SearchSpace

# The trials that count; failed ones are run again or replaced by others.
DONE_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
RANGE = "search."  # Prefix of the settings that are the search space.
# User attributes, which dashboards show: of the study, and of its trials.
MLFLOW_RUN = "mlflow_run"
RUN_ID, ERROR, RETRIES, RETRY_OF = "run_id", "error", "retries", "retry_of"
_SETTINGS = "settings"  # A system attribute, because it is too long for a dashboard.


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


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describe the first difference between the settings of a study and those of a sweep, and its remedy."""
    differing = sorted({key for key, _ in before.items() ^ now.items()})
    first = next((key for key in differing if key.startswith(RANGE)), differing[0])
    old, new = (settings.get(first, "nothing") for settings in (before, now))
    return (
        f"has {first} {old}, but this sweep has {new}; name another study with --study, or keep the options and "
        "the version of this project"
    )
