"""A study in its storage, and the names of what it holds."""

from collections.abc import Mapping

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from project.engine.search.space import SearchSpace

# The trials that count; failed ones are run again or replaced by others.
DONE_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
# User attributes: of the study, and of its trials.
MLFLOW_RUN, _SETTINGS = "mlflow_run", "settings"
RUN_ID, ERROR, RETRIES, RETRY_OF = "run_id", "error", "retries", "retry_of"


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
    before = study.user_attrs.get(_SETTINGS)
    if (other := [direction.name.lower() for direction in study.directions]) != directions:
        raise ValueError(f"--study: {name} has the directions {', '.join(other)}; name another study with --study")
    if before is None:
        study.set_user_attr(_SETTINGS, dict(settings))
    elif different := sorted(before.items() ^ settings.items()):
        key = different[0][0]
        raise ValueError(
            f"--study: {name} has {key} {before.get(key)}, but this sweep has {settings.get(key)}; name another "
            "study with --study, or keep the options of the study"
        )
    else:
        study.sampler.reseed_rng()  # The study has the first draws of this seed already.
    return study
