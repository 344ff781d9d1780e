"""The options of `fit` as its parser has learned them, in a file, so that some answers need no import of torch.

The parser reads signatures, and therefore imports all libraries. A fit writes what it learned about the chosen groups
of settings. The file is valid as long as the project's files and the versions of the libraries are the same.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin

from project.engine.atomic import replace_file
from project.engine.cli import config_groups, yaml_file
from project.engine.cli.command_line import CommandLine
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.help import page
from project.engine.cli.nearest import children, suggestion
from project.engine.runtime.places import CACHE
from project.engine.runtime.startup import is_first_process
from project.engine.tracking.names import short

_PROJECT = Path(__file__).parents[2]
_LIBRARIES = ("jsonargparse", "lightning", "torch")
_CLASSES = ("data", "model", "model.net")
_OF_CLASSES = ("class_path", "dict_kwargs", "help", "init_args")
_SIMPLE = ("int", "float", "bool", "NoneType")
_YAML_WORDS = ("false", "inf", "infinity", "nan", "no", "none", "null", "off", "on", "true", "yes")
"""Words that YAML, or the parser, may read as something other than a text."""


class KnownOptions(NamedTuple):
    """The options of a choice of groups.

    Attributes:
        texts: The help of each option, by its dotted name.
        settings: The value of each setting without changes, by its dotted name.
        types: The types of each option that has only types of `_SIMPLE` and choices, such as `["'zeros'", "NoneType"]`.
    """

    texts: dict[str, str]
    settings: dict[str, Any]
    types: dict[str, list[str]]

    @classmethod
    def load(cls, defaults: Sequence[str]) -> Self | None:
        """Read the options of a choice; None if they are not known, or something has changed since."""
        try:
            stored = json.loads(_file(defaults).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # There is no such file, or it is damaged.
            return None
        return cls(*stored["options"]) if stored["of"] == _fingerprint(defaults) else None

    def save(self, defaults: Sequence[str]) -> None:
        """Write the options of a choice, unless it contains classes of the user, whose files may change.

        In a folder without runs, nothing is written.
        """
        classes = [str(self.settings.get(name, "project.")) for name in _CLASSES]
        if not (CACHE.parent.is_dir() and all(name.startswith("project.") for name in classes)):
            return
        path, text = _file(defaults), json.dumps({"of": _fingerprint(defaults), "options": self}, default=short)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"), flush=False)
        except OSError:  # The disk is read-only or full; the next answer takes seconds.
            return

    def refusal(self, command: CommandLine) -> str | None:
        """Return the error of the first option that the parser certainly refuses; None if there is none."""
        names = [*command.names, *(name for name in self.settings if not name.startswith("groups."))]
        for option in self._unknown(command):
            parent = option.rpartition(".")[0]
            return f"unknown option --{option}; {suggestion(option, children(parent, names), names)}"
        for option, value in self._wrong(command):
            return f"--{option}: got {value!r}; expected {_expected(self.types[option])}"
        return None

    def _wrong(self, command: CommandLine) -> Iterator[tuple[str, str]]:
        chosen = _chosen(command)
        for name, value in _typed(command):
            owners = {name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)}
            if name in self.types and not owners & chosen and not _may_be(value, self.types[name]):
                yield name, value

    def _unknown(self, command: CommandLine) -> Iterator[str]:
        names = [*command.names, *self.texts, *self.settings]
        chosen = _chosen(command)
        for name, _ in _typed(command):
            parts = name.removesuffix("+").split(".")
            for depth, part in enumerate(parts[:3]):
                owner = ".".join(parts[:depth])
                options = children(owner, names)
                if owner in chosen or not options:
                    break
                if part not in options and (not owner or part not in _OF_CLASSES):
                    yield name
                    break


def _typed(command: CommandLine) -> list[tuple[str, str]]:
    pairs = (option.removeprefix("--").partition("=") for option in command.changes if option.startswith("--"))
    return [(name, value) for name, _, value in pairs]


def _chosen(command: CommandLine) -> set[str]:
    """Return the settings whose class the command line may choose, so that its options are not known."""
    return {name.removesuffix(".class_path") for name, _ in _typed(command)}


def _may_be(value: str, types: Sequence[str]) -> bool:
    """Return whether the parser may accept a value.

    It certainly refuses a word that is not one of the choices, and a decimal number for an integer. Any other text is
    left to the parser.
    """
    if re.fullmatch(r"-?\d+\.\d+", value):
        return not {*types} <= {"int", "NoneType"}
    is_word = re.fullmatch("[A-Za-z][A-Za-z_]*", value) and value.lower() not in _YAML_WORDS
    return not is_word or repr(value) in types


def _expected(types: Sequence[str]) -> str:
    """Return the types as the message of `explain` lists them."""
    if len(types) == 1 and types[0] in _SIMPLE:
        return types[0]
    words = {"bool": "true, false", "NoneType": "null"}
    listed = {name.strip("'"): words.get(name, name) for name in types}  # The precisions have 16 and "16".
    return f"one of {', '.join(listed.values())}"


def simple_types(kind: object) -> list[str]:
    """Return the names of simple types and the choices that a type consists of; an empty list for any other type."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    names: list[str] = []
    for part in parts:
        is_choice = get_origin(part) is Literal
        if not is_choice and getattr(part, "__name__", None) not in _SIMPLE:
            return []
        names += map(repr, get_args(part)) if is_choice else [part.__name__]
    return names


def check_early(command: CommandLine) -> KnownOptions | None:
    """Return the options of the chosen groups; None if they are not known, or a file of the user changes them.

    Raises:
        ValueError: The parser will certainly refuse an option.
    """
    has_file = command.resume or command.rerun or any(option == "--config" for option, _ in command.pairs)
    known = None if has_file else KnownOptions.load(command.defaults)
    if known and (refusal := known.refusal(command)):
        raise ValueError(refusal)
    return known


def answer_early(argv: Sequence[str]) -> None:
    """Print the help of `fit`, or refuse an unknown option or a value of a wrong type, without torch, if possible.

    Raises:
        SystemExit: 2 if the input is bad; 0 after the help.
    """
    if not is_first_process():
        return
    with exit_on_bad_input():
        command = CommandLine.parse(argv)
        known = check_early(command)
    if (
        known
        and ("--help", None) in command.pairs
        and all(option.removeprefix("--") in (*config_groups.GROUPS, "help") for option, _ in command.pairs)
    ):
        print(page(known.texts, known.settings), end="")
        sys.exit(0)


def _file(defaults: Sequence[str]) -> Path:
    choice = "\n".join([str(_PROJECT), *defaults])
    return CACHE / f"options-{sha256(choice.encode()).hexdigest()[:16]}.json"


def _fingerprint(defaults: Sequence[str]) -> str:
    """Return a text that changes with the project's files, the chosen settings and the libraries."""
    files = sorted(
        [*_PROJECT.rglob("*.py"), *(Path(option) for option in defaults if option.endswith(yaml_file.SUFFIXES))]
    )
    parts = [f"{file} {(stat := yaml_file.current(file).stat()).st_size} {stat.st_mtime_ns}" for file in files]
    parts += [f"{library} {version(library)}" for library in _LIBRARIES]
    return sha256("\n".join([sys.version, *parts]).encode()).hexdigest()


def as_known(texts: Mapping[str, str], settings: Mapping[str, Any], types: Mapping[str, object]) -> KnownOptions:
    """Return options whose values JSON can hold."""
    plain = {name: value if isinstance(value, str | int | float | None) else short(value)
             for name, value in settings.items()}  # fmt: skip
    simple = {name: names for name, kind in types.items() if (names := simple_types(kind))}
    return KnownOptions(dict(texts), plain, simple)
