"""Options that were given `null` although their type does not allow it, which jsonargparse does not check."""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import NoneType
from typing import Any, get_args

from project.engine.cli.parser import FitParser


def check_null(settings: Mapping[str, Any], defaults: Mapping[str, Any], parser: FitParser) -> None:
    """Check the settings that are null, but not by default.

    Args:
        settings: The settings by their dotted names; a class is the value of its name.
        defaults: The settings without the changes of the command line.
        parser: The parser of the settings.

    Raises:
        ValueError: A setting is null that must not be.
    """
    for name in [name for name, value in settings.items() if value is None]:
        is_section = any(other.startswith(f"{name}.") for other in defaults)
        if defaults.get(name) is None and not is_section:
            continue
        kind = _type_of(name, settings, parser)
        may_be_null = not is_section if kind is None else kind is Any or NoneType in get_args(kind)
        if not may_be_null:
            raise ValueError(f"--{name}: got null, but it needs a value; leave it out for the default")


def _type_of(name: str, settings: Mapping[str, Any], parser: FitParser) -> object:
    """Return the type of an option, from the class that it belongs to; None for a section of settings."""
    owner = name.rpartition(".")[0]
    while owner and not isinstance(settings.get(owner), str):
        owner = owner.rpartition(".")[0]
    return parser.types_of(owner, resolve_name(settings[owner]) if owner else None).get(name)
