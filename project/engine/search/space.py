"""Search spaces: YAML files with a distribution for each setting to vary, and the metrics to optimize."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler

from project.engine.cli import yaml_file
from project.engine.cli.nearest import question
from project.engine.search.sweep_options import SPACE_KEYS

T = TypeVar("T")
_TRIVIAL_TRIALS = 12  # TPE, Optuna's default, draws the first ten at random
_DISTRIBUTIONS: dict[str, type[BaseDistribution]] = {
    "float": FloatDistribution,
    "int": IntDistribution,
    "categorical": CategoricalDistribution,
}


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a study varies, its metrics, its sampler and its pruner.

    Attributes:
        directions: `maximize` or `minimize` for each metric; several metrics give a Pareto front.
        distributions: The range of each setting.
        sampler: The sampler; None for Optuna's default.
        pruner: The pruner; None for Optuna's default.
        path: The YAML file.
        text: Its content.
    """

    directions: dict[str, Literal["maximize", "minimize"]]
    distributions: dict[str, BaseDistribution]
    sampler: BaseSampler | None
    pruner: BasePruner | None
    path: Path
    text: str

    @property
    def most_trials(self) -> int:
        """Number of points of a sampler that returns each point once; unlimited for other samplers."""
        if isinstance(self.sampler, GridSampler):
            return prod(map(len, yaml.safe_load(self.text)["sampler"]["search_space"].values()))
        if isinstance(self.sampler, BruteForceSampler):
            return prod(map(_number_of_values, self.distributions.values()))
        return sys.maxsize

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of a trial's values."""
        return list(self.directions)


def read_space(path: Path) -> SearchSpace:
    """Read a search space and check what can be checked without the model.

    Raises:
        ValueError: The file is malformed, or a distribution, the sampler or the pruner is not valid.
        OSError: The file cannot be read.
    """
    content = yaml_file.read(path, "--search")
    for key in set(content) - set(SPACE_KEYS):
        hint = question(str(key), SPACE_KEYS)
        raise ValueError(f"--search: {path} has the key {key!r}{hint}; keys are {', '.join(SPACE_KEYS)}")
    if not content.get("space") or not isinstance(content["space"], dict):
        raise ValueError(
            f"--search: {path} has space: {content.get('space')!r}; expected the settings to vary, such as "
            "model.optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}"
        )
    directions = _directions(path, content)
    if len(directions) > 1 and content.get("pruner"):
        raise ValueError(f"--search: {path} has a pruner and several metrics; trials are pruned by one metric alone")
    space = SearchSpace(
        directions=directions,
        distributions={str(key): _distribution(path, key, settings) for key, settings in content["space"].items()},
        sampler=_optuna_component(path, "sampler", content.get("sampler"), optuna.samplers, BaseSampler),
        pruner=_optuna_component(path, "pruner", content.get("pruner"), optuna.pruners, BasePruner),
        path=path,
        text=path.read_text(encoding="utf-8"),
    )
    _check_with_trivial_trials(path, space)
    return space


def check_values(space: SearchSpace, accept: Callable[[Sequence[str]], object]) -> None:
    """Try both ends of every range, and every choice.

    Args:
        space: The search space.
        accept: Builds a fit with these options; raises ValueError for an invalid one.

    Raises:
        ValueError: A setting is unknown, or a value of its range is not valid.
    """
    usual = {key: _extremes(distribution)[0] for key, distribution in space.distributions.items()}
    tried = [usual, *({key: value} for key, one in space.distributions.items() for value in _extremes(one)[1:])]
    for changed in tried:
        try:
            accept(fit_options(usual | changed))
        except ValueError as error:
            given = ", ".join(f"{key}: {value}" for key, value in changed.items())
            raise ValueError(f"--search: {space.path} with {given}: {error}") from error


def fit_options(parameters: Mapping[str, object]) -> list[str]:
    """Return settings as options of `fit`."""
    return [f"--{key}={'null' if value is None else value}" for key, value in parameters.items()]


def _directions(path: Path, content: dict[str, Any]) -> dict[str, Literal["maximize", "minimize"]]:
    metrics: Any = content.get("metric")
    directions: Any = content.get("direction")
    metrics = [metrics] if isinstance(metrics, str) else metrics
    directions = [directions] if isinstance(directions, str) else directions
    lists = isinstance(metrics, list) and isinstance(directions, list) and all(isinstance(m, str) for m in metrics)
    if not lists or not metrics or len(metrics) != len(directions) or len(set(metrics)) != len(metrics):
        raise ValueError(
            f"--search: {path}: got metric {metrics} and direction {directions}; give one direction for each metric"
        )
    for direction in directions:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"--search: {path}: got direction {direction!r}; it is maximize or minimize")
    return dict(zip(metrics, directions, strict=True))


def _distribution(path: Path, key: Any, settings: Any) -> BaseDistribution:
    kind = settings.get("type") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or kind not in _DISTRIBUTIONS:
        raise ValueError(
            f"--search: {path}: {key} is {settings!r}; expected {{type: T, ...}} with T one of "
            f"{', '.join(_DISTRIBUTIONS)}"
        )
    arguments = {name: value for name, value in settings.items() if name != "type"}
    try:
        for name in ("low", "high", "step"):
            if isinstance(value := arguments.get(name), str):
                raise ValueError(f"got {name}: {value!r}; YAML writes 1e-4 as 1.0e-4")
        for choice in arguments.get("choices", []):
            if not isinstance(choice, bool | int | float | str | None):
                raise ValueError(
                    f"got the choice {choice!r}; a choice is a number, a text, true, false or null; write "
                    f'"{choice}", with quotes'
                )
        return _DISTRIBUTIONS[kind](**arguments)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"--search: {path}: {key}: {error}") from error


def _optuna_component(path: Path, key: str, settings: Any, module: Any, base: Callable[..., T]) -> T | None:
    """Return the sampler or pruner that a YAML file names, such as `{type: TPESampler, seed: 0}`."""
    if settings is None:
        return None
    settings = {"type": settings} if not isinstance(settings, dict) else dict(settings)
    names = [name for name in module.__all__ if name.endswith(base.__name__[4:]) and not name.startswith("Base")]
    name = settings.pop("type", None)
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f"--search: {path}: got {key} {name!r}{question(str(name), names)}; optuna has {', '.join(names)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the user has chosen it by name
            made: T = getattr(module, name)(**settings)
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        raise ValueError(f"--search: {path}: {key} {name}: {error}") from error
    return made


def _check_with_trivial_trials(path: Path, space: SearchSpace) -> None:
    """Run copies of the sampler and the pruner with trivial trials, because they check many arguments only then."""
    study = optuna.create_study(
        directions=list(space.directions.values()), sampler=deepcopy(space.sampler), pruner=deepcopy(space.pruner)
    )
    named = " or ".join(type(one).__name__ for one in (space.sampler, space.pruner) if one) or "Optuna"
    try:
        for number in range(min(_TRIVIAL_TRIALS, space.most_trials)):
            trial = study.ask(space.distributions)
            for step in range(_TRIVIAL_TRIALS if len(space.metrics) == 1 else 0):
                trial.report(number / _TRIVIAL_TRIALS, step)
                trial.should_prune()
            with suppress(RuntimeError):  # a grid raises it after its last point
                study.tell(trial, [number / _TRIVIAL_TRIALS] * len(space.metrics))
    except ImportError as error:
        raise ValueError(f"--search: {path}: {named} needs a package that is not installed: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"--search: {path}: the arguments of {named} are not valid: {error}") from error


def _number_of_values(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        return sys.maxsize
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _extremes(distribution: BaseDistribution) -> list[object]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]
