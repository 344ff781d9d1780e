"""The page that `--help` prints: examples, choices, common options, and the options of data and model."""

import re
from collections.abc import Iterator, Mapping
from shutil import get_terminal_size
from textwrap import shorten, wrap
from typing import Any

from project.engine.cli import config_groups
from project.engine.tracking.names import short

_WIDEST = 100
_NAME_WIDTH = 33
_COMMON = {
    "max_epochs": "number of epochs",
    "model.optimizer.lr": "learning rate",
    "data.batch_size": "samples per step and device",
    "precision": "32-true, bf16-mixed, or 16-mixed on a GPU",
    "devices": "number of GPUs or processes, or auto",
}
_FILES = (
    ("--config FILE", "settings in YAML; a later file wins, and options win over files"),
    ("--resume RUN", "continue a run from its newest checkpoint"),
    ("--rerun RUN", "train again with the settings of a run"),
    ("--register NAME", "register the model under a name in MLflow"),
    ("--print_config", "print all settings as YAML"),
)
_EXAMPLES = """
  python -m project.fit
  python -m project.fit --data mnist --model resnet18 --max_epochs 3
  python -m project.fit --data image_folder --data.root DIR --strategy ddp
"""


def choices() -> str:
    """Return a line for each group, with its choices."""
    lines = ["choices; --GROUP NAME is short for --config configs/GROUP/NAME.yaml:"]
    for group in config_groups.GROUPS:
        names = config_groups.choices(group)
        if group == "model":
            names = [*(name for name in names if name != "torchvision"), "any of torchvision (resnet18)"]
        names += ["package.Class"] if group in config_groups.CLASSES else []
        lines += _row(f"--{group}", ", ".join(names), lines=3)
    return "\n".join(lines)


def page(options: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Return the page on the options of `fit`.

    Args:
        options: Help of the options of data, model and checkpoint, by their dotted names.
        settings: The values of all settings without changes, by their dotted names.
    """
    parts = [f"usage: python -m project.fit [--GROUP NAME]... [--OPTION VALUE]...\n{_EXAMPLES.rstrip()}", choices()]
    common = [row for name, text in _COMMON.items() for row in _common_row(name, text, settings)]
    parts.append("\n".join(["common options, with their present values:", *common, *_rows(_FILES)]))
    for section in ("data", "model", "checkpoint"):
        lines = list(_section(section, options, settings))
        parts += ["\n".join([f"options of --{section}{_class_name(section, settings)}:", *lines])] if lines else []
    more = (
        ("--help all", "every option, also of the Trainer"),
        ("--NAME.help [CLASS]", "the options of one class, in full"),
        ("docs/trainer.md", "options and callbacks of the Trainer"),
    )
    parts.append("\n".join(["more:", *_rows(more)]))
    return "\n\n".join(parts) + "\n"


def _common_row(name: str, text: str, settings: Mapping[str, Any]) -> list[str]:
    setting = config_groups.SHORT.get(f"--{name}", name).removeprefix("--")
    return _row(f"--{name} {short(settings[setting])}", text) if setting in settings else []


def _class_name(section: str, settings: Mapping[str, Any]) -> str:
    return f" ({short(settings[section])})" if section in settings else ""


def _section(section: str, options: Mapping[str, str], settings: Mapping[str, Any]) -> Iterator[str]:
    """Return a line for each option of a section, and a line for the options that each of its objects has."""
    for name in dict.fromkeys(".".join(name.split(".")[:2]) for name in options if name.startswith(f"{section}.")):
        # The number of steps of a schedule is refused, because it is always that of the training.
        given = (other for other in (*options, *settings) if not other.endswith(".total_steps"))
        known = [other for other in given if other.startswith(f"{name}.")]
        parts = dict.fromkeys(other.removeprefix(f"{name}.").partition(".")[0] for other in known)
        if not any(other.startswith(f"{name}.") for other in options) and name not in _COMMON:
            yield from _row(f"--{name} {_value(settings.get(name))}", _first_clause(options[name]))
        if parts and not str(settings.get(name)).startswith("torch."):  # torch documents its classes.
            yield from _row(f"--{name}.NAME", ", ".join(parts), lines=3)


def _value(value: object) -> str:
    return "null" if value is None else "true" if value is True else "false" if value is False else short(value)


def _first_clause(text: str) -> str:
    return re.split(r"[.;:](?:\s|$)|\s\(|,\ssuch as", " ".join(text.split()))[0]


def _rows(rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [line for name, text in rows for line in _row(name, text)]


def _row(name: str, text: str, lines: int = 1) -> list[str]:
    """Return a name and a text, which continues below itself on at most so many lines."""
    width = min(get_terminal_size().columns, _WIDEST) - _NAME_WIDTH
    indented = f"  {name}".ljust(_NAME_WIDTH)
    cut = wrap(text, width, max_lines=lines, placeholder=" …")
    if len(indented) > _NAME_WIDTH - 1 and not indented.endswith(" "):
        return [f"{indented} {shorten(text, max(9, width - len(indented) + _NAME_WIDTH - 1), placeholder=' …')}"]
    return [f"{indented}{cut[0] if cut else ''}", *(" " * _NAME_WIDTH + line for line in cut[1:])]
