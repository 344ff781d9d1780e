"""Options that were given `null` although their type does not allow it, which jsonargparse does not check."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from torch import Tensor

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
    for name, value in settings.items():
        if value is not None:
            continue
        is_section = any(other.startswith(f"{name}.") for other in defaults)
        if defaults.get(name) is None and not is_section:
            continue
        kind = _type_of(name, settings, parser)
        if kind is None and is_section:
            raise ValueError(f"--{name}: got null; expected settings, each with its name")
        if kind not in (None, Any) and NoneType not in get_args(kind):
            raise ValueError(f"--{name}: got null; expected {_text(kind)}")


def _type_of(name: str, settings: Mapping[str, Any], parser: FitParser) -> object:
    """Return the type of an option, from the class that it belongs to; None for a section of settings."""
    owner = name.rpartition(".")[0]
    while owner and not isinstance(settings.get(owner), str):
        owner = owner.rpartition(".")[0]
    return parser.types_of(owner, resolve_name(settings[owner]) if owner else None).get(name)


def _text(kind: object) -> str:
    if get_origin(kind) is Callable:
        return "the path of a class"
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    # An option of torch may also be a tensor, which cannot be typed.
    names = [part.__name__ if isinstance(part, type) else str(part) for part in parts if part is not Tensor]
    return " or ".join(name.replace("collections.abc.", "") for name in names)
