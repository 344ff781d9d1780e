"""A search space is one YAML: a dotted setting of `fit` -> an Optuna distribution."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_TYPES: dict[str, type[BaseDistribution]] = {
    "float": FloatDistribution,
    "int": IntDistribution,
    "categorical": CategoricalDistribution,
}


@dataclass(frozen=True)
class SearchSpace:
    """What a study varies, and the metric that it judges by."""

    metric: str
    direction: Literal["maximize", "minimize"]
    distributions: dict[str, BaseDistribution]


def read_space(path: Path) -> SearchSpace:
    """Read and check a search space.

    Raises:
        ValueError: The file is malformed, or a distribution is impossible.
        OSError: It cannot be read.
    """
    content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {"metric", "direction", "space"} or not content["space"]:
        raise ValueError(f"--search: {path} must have the keys metric, direction and space, and nothing else")
    if content["direction"] not in ("maximize", "minimize"):
        raise ValueError(f"--search: {path}: got direction {content['direction']!r}; it is maximize or minimize")
    return SearchSpace(
        content["metric"],
        content["direction"],
        {key: _distribution(path, key, settings) for key, settings in content["space"].items()},
    )


def _distribution(path: Path, key: str, settings: dict[str, Any]) -> BaseDistribution:
    settings = dict(settings)
    kind = settings.pop("type", None)
    if kind not in _TYPES:
        raise ValueError(f"--search: {path}: {key} has type {kind!r}; types are {', '.join(_TYPES)}")
    try:
        return _TYPES[kind](**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--search: {path}: {key}: {error}") from error
