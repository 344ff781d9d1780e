"""The settings of a fit, by their names on the command line."""

from collections.abc import Mapping
from inspect import signature
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace

from project.engine.tracking.secrets import HIDDEN, storable


def short_name(key: str) -> str:
    """Return the name of a setting without the words that only YAML files need."""
    return key.replace(".init_args", "").removesuffix(".class_path")


def flatten(config: Namespace) -> dict[str, Any]:
    """Return the settings by their names on the command line."""
    return {
        short_name(key): value
        for key, value in config.clone().items(branches=False)
        if key != "config" and not key.endswith("__path__")
    }


def listed(value: Any) -> list[Any]:
    """Return a list of objects from what Lightning accepts: a list, one object, or None."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults of the chosen groups, and from those of the chosen classes.

    Args:
        settings: All settings by name.
        defaults: The settings of the chosen groups.
    """
    different = {
        key: value for key, value in settings.items() if value != defaults.get(key) and not key.startswith("groups.")
    }
    return {key: value for key, value in different.items() if value != _default_of_chosen_class(key, different)}


def _default_of_chosen_class(key: str, different: Mapping[str, Any]) -> Any:
    """Return the default of a setting of a class that replaces another class; the user did not change it."""
    owner, _, name = key.rpartition(".")
    if owner not in different:
        return ...
    parameter = signature(resolve_name(different[owner])).parameters.get(name)
    return parameter.default if parameter else ...


def without_secrets(config: Namespace) -> Namespace:
    """Return a copy of the settings in which the values of secrets are hidden."""
    copy = config.clone()
    for key, value in config.items(branches=False):
        copy[key] = storable(key, value)
    return copy


def check_secrets(settings: Mapping[str, Any]) -> None:
    """Raise ValueError if a setting is a hidden secret, as in the stored settings of a run."""
    for key, value in settings.items():
        if HIDDEN in str(value):
            raise ValueError(f"--{key}: got {value}: secrets are not stored with a run; pass the value again")
