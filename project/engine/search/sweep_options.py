"""The options of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from project.engine.cli import config_groups

Keep = Literal["weights", "all"]


@dataclass(frozen=True)
class SweepOptions:
    """The command line of a sweep.

    Attributes:
        argv: The command line as it was typed.
        fit_options: Options of `fit` that all trials share.
        search: Name of the search space in configs/search, or its file.
        n_trials: Number of trials, including those of earlier sweeps of the study.
        n_jobs: Number of trials that run at the same time.
        max_retries: How often a failed trial is run again.
        study: Name of the study; None for EXPERIMENT-SEARCH, or for EXPERIMENT-MODEL-SEARCH if the model is not cnn.
        keep_checkpoints: Checkpoints to keep when trials end.
        register: Name of the registered model that gets the model of the best trial; None registers nothing.
        storage: URL of the Optuna storage.
    """

    argv: Sequence[str]
    fit_options: Sequence[str]
    search: str
    n_trials: int
    n_jobs: int
    max_retries: int
    study: str | None
    keep_checkpoints: Keep
    register: str | None
    storage: str


_OWN = [field.name for field in fields(SweepOptions) if field.name not in ("argv", "fit_options")]
NAMES = (*config_groups.NAMES, *_OWN)
"""Names of the options of a sweep besides the settings."""
SPACE_KEYS = ("direction", "metric", "pruner", "sampler", "space")
"""Keys of the file of a search space."""


def check_no_space_key(fit_options: Sequence[str]) -> None:
    """Raise ValueError for an option that is a key of the search space."""
    typed = {option.partition("=")[0] for option in fit_options}
    for key in SPACE_KEYS:
        if f"--{key}" in typed:
            raise ValueError(f"--{key}: is a key of the search space; set {key} in configs/search/NAME.yaml")
