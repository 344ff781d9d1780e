"""The rule of config groups: `--GROUP NAME` stands for `--config configs/GROUP/NAME.yaml`.

A new YAML file in a folder is a new choice. Files in `configs/GROUP/` of the current folder are choices too, and
override files of the same name in the package. A YAML may name groups under the key `groups`. They are read before it,
so that it lists only what differs from them.

A class of data or of a model is a choice of its own: as `--model package.module.Class`, or as the `class_path` of
`model` in a `--config` file. It takes the place of the default choice, whose settings are of another class.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[2]
# A wheel has the folder inside the package, a checkout beside it.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
DEFAULTS = {"data": "digits", "model": "cnn", "strategy": "single"}
GROUPS = (*DEFAULTS, "experiment")
CLASSES = ("data", "model")
SHORT = {
    "--precision": "--trainer.precision",
    "--devices": "--trainer.devices",
    "--max_epochs": "--trainer.max_epochs",
}
NAMES = (*GROUPS, "config", "resume", *(option.removeprefix("--") for option in SHORT))

USAGE = """python -m project.fit [--data NAME] [--model NAME] [--strategy NAME] [--experiment NAME]
           [--precision P] [--devices N] [--max_epochs N] [--config FILE] [--resume RUN_ID] [--SETTING VALUE]..."""


def description() -> str:
    """Describe the groups and their choices for `--help`."""
    lines = [f"--{group} NAME: {', '.join(choices(group))}" for group in GROUPS]
    return "--GROUP NAME stands for --config configs/GROUP/NAME.yaml. " + "; ".join(lines) + ". All settings:"


def split_resume(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--resume RUN_ID` out of a command line.

    Raises:
        ValueError: The run is not named.
    """
    run_id, rest = None, []
    for option, value in _pairs(argv):
        if option == "--resume":
            run_id = _value(option, value, "the id of a run")
        else:
            rest += [option] if value is None else [option, value]
    return rest, run_id


def expand(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Replace groups and short options by what they stand for; the defaults come first.

    Returns:
        The new command line, and the name that is chosen in each group.

    Raises:
        ValueError: A group has no such choice, an option lacks its value, or a YAML is malformed.
        OSError: A YAML cannot be read.
    """
    chosen = dict(DEFAULTS)
    named: dict[str, str] = {}
    expanded: list[str] = []
    for option, value in _pairs(argv):
        group = option.removeprefix("--")
        if group in GROUPS:
            name = _value(option, value, f"one of {', '.join(choices(group))}")
            named[group] = name
            expanded += _choice(group, name)
            if group == "experiment":
                chosen |= _choices_of(file_of(group, name))
        elif option.startswith("--groups."):
            raise ValueError(f"{option}: is set by its group; give --{option.rpartition('.')[2]} NAME")
        elif option == "--config":
            path = _value(option, value, "a YAML file")
            chosen |= _choices_of(Path(path))
            expanded += [option, path]
        else:
            expanded += [SHORT.get(option, option) + ("" if value is None else f"={value}")]
    chosen |= named
    return [*base(chosen), *expanded], chosen


def base(chosen: Mapping[str, str]) -> list[str]:
    """Return the options that a choice of groups stands for, without changes."""
    arguments = ["--config", str(CONFIGS / "default.yaml")]
    for group in GROUPS:
        if name := chosen.get(group):
            arguments += _choice(group, name)
    return arguments


def without_classes(chosen: Mapping[str, str]) -> dict[str, str]:
    """Replace choices that are the path of a class by the defaults."""
    return {group: DEFAULTS[group] if _is_class(group, name) else name for group, name in chosen.items()}


def _is_class(group: str, name: str) -> bool:
    return group in CLASSES and "." in name and not name.endswith(".yaml")


def _choice(group: str, name: str) -> list[str]:
    """Return the options of a choice: the name of a file, the path of a class, or a YAML that names a class."""
    if name.endswith(".yaml"):
        return ["--config", name, f"--groups.{group}={Path(name).stem}"]
    if _is_class(group, name):
        return [f"--{group}={name}", f"--groups.{group}={name.rpartition('.')[2]}"]
    return [*files(group, name), f"--groups.{group}={name}"]


def choices(group: str) -> list[str]:
    """Return the names of a group's YAML files."""
    return sorted({path.stem for folder in _folders(group) for path in folder.glob("*.yaml")})


def file_of(group: str, name: str) -> Path:
    """Return the file of a choice; it does not exist if there is no such choice."""
    paths = [folder / f"{name}.yaml" for folder in _folders(group)]
    return next((path for path in paths if path.is_file()), paths[-1])


def _folders(group: str) -> tuple[Path, Path]:
    return Path("configs", group), CONFIGS / group


def files(group: str, name: str) -> list[str]:
    """Return the options that the choice of one group stands for."""
    path = file_of(group, name)
    if path.is_file():
        return ["--config", str(path)]
    names = choices(group)
    if group == "model":
        from project.models.torchvision import classification_models

        known = classification_models()
        if name in known:
            return [*files(group, "torchvision"), f"--model.net.name={name}"]
        raise ValueError(f"--model: got {name!r}{_nearest(name, names + known)}; configs/model has "
                         f"{', '.join(names)}, and torchvision's names work too")  # fmt: skip
    raise ValueError(f"--{group}: got {name!r}{_nearest(name, names)}; configs/{group} has {', '.join(names)}")


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


def _value(option: str, value: str | None, expected: str) -> str:
    if not value:
        raise ValueError(f"{option}: got nothing; expected {expected}")
    return value


def _nearest(name: str, names: Sequence[str]) -> str:
    matches = get_close_matches(name, names, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _choices_of(path: Path) -> dict[str, str]:
    """Return the groups that a YAML names, and itself for those whose class it sets."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"--config: cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is no valid YAML: {_brief(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: {path} is no text: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config: {path} holds {type(content).__name__}; expected settings such as trainer: ...")
    groups = content.get("groups") or {}
    if not isinstance(groups, dict):
        raise ValueError(f"--config: {path} has groups: {groups!r}; expected names, such as groups: {{data: mnist}}")
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise ValueError(f"--config: {path} names the group {unknown.pop()!r}; groups are {', '.join(GROUPS)}")
    classes = {group: str(path) for group in CLASSES if _names_a_class(content.get(group))}
    # The settings of a run have both; a group that was itself a class has no file.
    named = {g: name for g, name in groups.items() if name and (g not in classes or file_of(g, name).is_file())}
    return classes | named


def _names_a_class(settings: object) -> bool:
    return isinstance(settings, str) or (isinstance(settings, dict) and "class_path" in settings)


def _brief(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
