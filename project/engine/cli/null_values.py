"""Options that were given `null` although their type does not allow it, which jsonargparse does not check."""

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from project.engine.cli.known_options import expected, simple_types


def check_null(settings: Mapping[str, Any], defaults: Mapping[str, Any], types: Mapping[str, object]) -> None:
    """Check the settings that are null.

    Args:
        settings: The settings by their dotted names.
        defaults: The settings without the changes of the command line.
        types: The type of each option; None for a section of settings, such as `data.augmentation`.

    Raises:
        ValueError: A setting is null that must not be.
    """
    for name, value in settings.items():
        kind = types.get(name)
        if value is not None or name not in types:
            continue
        if kind is None and any(other.startswith(f"{name}.") for other in defaults):
            raise ValueError(f"--{name}: got null; expected settings, each with its name")
        if kind not in (None, Any) and NoneType not in get_args(kind) and defaults.get(name) is not None:
            raise ValueError(f"--{name}: got null; expected {expected(simple_types(kind)) or _text(kind)}")


def _text(kind: object) -> str:
    if get_origin(kind) is Callable:
        return "the path of a class"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
