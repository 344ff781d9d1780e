"""A study in its storage, made or gone on with."""

from collections.abc import Mapping

import optuna
from optuna.storages import BaseStorage

from project.engine.search.space import SearchSpace

_SETTINGS = "settings"


def open_study(storage: BaseStorage, name: str, space: SearchSpace, settings: Mapping[str, str]) -> optuna.Study:
    """Make the study, or continue it if it searches the same.

    Args:
        storage: What `open_storage` returned.
        name: Of the study.
        space: What is searched.
        settings: What all trials share.

    Raises:
        ValueError: The storage has a study of that name that searches something else.
    """
    directions = list(space.directions.values())
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, sampler=space.sampler, pruner=space.pruner,
        load_if_exists=True,
    )  # fmt: skip
    before = study.user_attrs.get(_SETTINGS)
    if (other := [direction.name.lower() for direction in study.directions]) != directions:
        raise ValueError(f"--study: {name} is to {', '.join(other)}; name another study with --study")
    if before is None:
        study.set_user_attr(_SETTINGS, dict(settings))
    elif different := sorted(before.items() ^ settings.items()):
        key = different[0][0]
        raise ValueError(
            f"--study: {name} has {key} {before.get(key)}, but this sweep has {settings.get(key)}; name another "
            "study with --study, or keep the options of the study"
        )
    else:
        study.sampler.reseed_rng()  # its first draws are in the study already
    return study
