"""The command line of `fit`, which is parsed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

from project.engine.cli import config_groups, yaml_file
from project.engine.cli.config_groups import DEFAULTS, GROUPS, NAMES

_RUNS = ("--resume", "--rerun")
_REGISTER = "--register"


@dataclass(frozen=True)
class CommandLine:
    """The options of `fit`; groups and short names are replaced by the options that they stand for.

    Attributes:
        argv: The options as given.
        resume: The run of `--resume`; None without it.
        rerun: The run of `--rerun`; None without it.
        register: The registered model of `--register`; None without it.
        pairs: The other options, each with its value; None for an option without a value.
        names: Names of the command's options besides the settings, for the nearest match.
    """

    argv: tuple[str, ...]
    resume: str | None
    rerun: str | None
    register: str | None
    pairs: tuple[tuple[str, str | None], ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, argv: Sequence[str], names: tuple[str, ...] = NAMES) -> Self:
        """Divide options from values.

        Raises:
            ValueError: `--resume` or `--rerun` does not name a run, or both are given; `--register` has no name.
        """
        pairs = _pairs(argv)
        runs = {option: _value(option, value, "a run, such as latest") for option, value in pairs if option in _RUNS}
        if len(runs) > 1:
            raise ValueError(
                "--rerun: got --resume too; --resume continues a run, and --rerun starts a run with the settings of "
                "another; give one of them"
            )
        registered = [_value(option, value, "a name") for option, value in pairs if option == _REGISTER]
        rest = tuple(pair for pair in pairs if pair[0] not in (*_RUNS, _REGISTER))
        register = registered[-1] if registered else None
        return cls(tuple(argv), runs.get("--resume"), runs.get("--rerun"), register, rest, names)

    def with_settings(self, path: Path) -> Self:
        """Return this command line with a YAML file of settings before its own options."""
        return replace(self, pairs=(("--config", str(path)), *self.pairs))

    @property
    def groups(self) -> dict[str, str]:
        """The name that is chosen in each group."""
        return self._expanded[0]

    @property
    def defaults(self) -> list[str]:
        """The options of the chosen groups."""
        return config_groups.base(self.groups)

    @property
    def changes(self) -> list[str]:
        """The given files, then the other options, without groups and short names; they follow the defaults."""
        return self._expanded[1]

    @property
    def files(self) -> list[Path]:
        """The YAML files of the settings."""
        options = [*self.defaults, *self.changes]
        return [Path(file) for option, file in pairwise(options) if option == "--config"]

    @cached_property
    def _expanded(self) -> tuple[dict[str, str], list[str]]:
        """Replace groups and short names.

        Raises:
            ValueError: A group has no such choice, or another one in a later file; an option lacks its value, or a
                YAML file is malformed.
            OSError: A YAML file cannot be read.
        """
        groups, named, files, options = dict(DEFAULTS), dict[str, str](), list[str](), list[str]()
        for option, value in self.pairs:
            group = option.removeprefix("--")
            if group in GROUPS:
                name = _value(option, value, f"one of {', '.join(config_groups.choices(group))}")
                named[group] = name
                files += config_groups.choice(group, name)
                if group == "experiment":
                    is_path = name.endswith(yaml_file.SUFFIXES)
                    path = name if is_path else str(config_groups.file_of(group, name))
                    groups |= _choices_of(Path(path), option, named)
            elif option.startswith("--groups."):
                raise ValueError(f"{option}: is set by its group; give --{option.rpartition('.')[2]} NAME")
            elif option == "--config":
                path = _value(option, value, "a YAML file")
                groups |= _choices_of(Path(path), option, named)
                files += [option, path]
            else:
                options += [config_groups.SHORT.get(option, option) + ("" if value is None else f"={value}")]
        return groups | named, files + options  # An option wins over each file, also over one that follows it.


def _pairs(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    rest = list(argv)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("--"):
            pairs.append((option + equals + value, None))
        elif equals:
            pairs.append((option, value))
        else:
            # A negative number is a value; what begins with two dashes is the next option.
            pairs.append((option, rest.pop(0) if rest and not rest[0].startswith("--") else None))
    return pairs


def _choices_of(path: Path, option: str, named: Mapping[str, str]) -> dict[str, str]:
    """Return the groups that a YAML file names; see `config_groups.choices_of`.

    Raises:
        ValueError: It names another choice of a group than an earlier option.
    """
    choices = config_groups.choices_of(path, option)
    for group, name in choices.items():
        if group in named and name not in (named[group], str(path)):
            raise ValueError(
                f"{option}: {path} names the {group} {name}, but --{group} {named[group]} comes before it; give "
                f"--{group} after {option}"
            )
    return choices


def _value(option: str, value: str | None, expected: str) -> str:
    if not value:
        raise ValueError(f"{option}: got nothing; expected {expected}")
    return value
