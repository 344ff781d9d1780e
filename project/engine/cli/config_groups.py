"""The rule of config groups: `--GROUP NAME` is short for `--config configs/GROUP/NAME.yaml`.

A new YAML file in a folder is a new choice. Files in `configs/GROUP/` of the current folder are choices too, and
override files of the same name in the package. A YAML file may name groups under the key `groups`. They are read before
it, so that it lists only what differs from them.

A class of data or of a model is a choice, too: as `--model package.module.Class`, or as the `class_path` of `model` in
a `--config` file. It replaces the default choice, whose settings belong to another class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from project.engine.cli import yaml_file
from project.engine.cli.nearest import question

_PACKAGE = Path(__file__).parents[2]
# A wheel has the folder inside the package, a checkout beside it.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
DEFAULTS = {"data": "digits", "model": "cnn", "strategy": "single"}
GROUPS = (*DEFAULTS, "experiment")
CLASSES = ("data", "model")
SECTIONS = (*CLASSES, "trainer", "checkpoint", "tracking")
SHORT = {
    "--precision": "--trainer.precision",
    "--devices": "--trainer.devices",
    "--accelerator": "--trainer.accelerator",
    "--max_epochs": "--trainer.max_epochs",
}
NAMES = (*GROUPS, "config", "resume", "rerun", "register", *(option.removeprefix("--") for option in SHORT))

PROGRAM = "python -m project.fit"
USAGE = f"""{PROGRAM} [--data NAME] [--model NAME] [--strategy NAME] [--experiment NAME]
           [--precision P] [--devices N] [--max_epochs N] [--config FILE] [--resume RUN | --rerun RUN]
           [--register NAME] [--SETTING VALUE]..."""


def base(chosen: Mapping[str, str]) -> list[str]:
    """Return the options that replace a choice of each group, without changes."""
    arguments = ["--config", str(CONFIGS / "default.yaml")]
    for group in GROUPS:
        if name := chosen.get(group):
            arguments += choice(group, name)
    return arguments


def _is_class(group: str, name: str) -> bool:
    is_path = "." in name and not name.endswith(yaml_file.SUFFIXES)
    return group in CLASSES and is_path and not file_of(group, name).is_file()


def choice(group: str, name: str) -> list[str]:
    """Return the options of a choice: a file's name, a class's path, or the path of a YAML file that names a class.

    Raises:
        ValueError: The group has no such choice.
    """
    if group in CLASSES and name.endswith(".py"):
        path = ".".join(Path(name).with_suffix("").parts)
        raise ValueError(f"--{group}: got the file {name}; give a class in it, such as --{group} {path}.CLASS")
    if name.endswith(yaml_file.SUFFIXES):
        _settings(Path(name), f"--{group}")
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
    """Return the options that replace the choice of one group."""
    path = file_of(group, name)
    if path.is_file():
        if not _names_a_class(_settings(path, f"--{group}").get(group)) and group == "data":
            raise ValueError(f"--data: {path} names no class of data; add data: {{class_path: package.module.Class}}")
        return ["--config", str(path)]
    names = choices(group)
    if group == "model":
        from project.models.torchvision import classification_models

        known = classification_models()
        if name in known:
            return [*files(group, "torchvision"), f"--model.net.name={name}"]
        raise ValueError(f"--model: got {name!r}{question(name, names + known)}; configs/model has "
                         f"{', '.join(names)}, and torchvision's names work too")  # fmt: skip
    raise ValueError(f"--{group}: got {name!r}{question(name, names)}; configs/{group} has {', '.join(names)}")


def search_file(name: str | None) -> Path:
    """Return the file of a search space: one of configs/search, or the path of another YAML file.

    Raises:
        ValueError: There is no such choice.
    """
    names = choices("search")
    if name is not None and name.endswith(yaml_file.SUFFIXES):
        return Path(name)
    if name is None or name not in names:
        got = "nothing" if name is None else f"{name!r}{question(name, names)}"
        raise ValueError(
            f"--search: got {got}; configs/search has {', '.join(names)}, and the path of a YAML file works too"
        )
    return file_of("search", name)


def choices_of(path: Path, option: str) -> dict[str, str]:
    """Return the groups that a YAML file or its experiment names, and the file for the groups whose class it sets.

    Raises:
        ValueError: The file is malformed.
        OSError: The file cannot be read.
    """
    content = _settings(path, option)
    groups = content.get("groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(name, str | None) for name in groups.values()):
        raise ValueError(f"{option}: {path} has groups: {groups!r}; expected names, such as groups: {{data: mnist}}")
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise ValueError(f"{option}: {path} names the group {unknown.pop()!r}; groups are {', '.join(GROUPS)}")
    classes = {group: str(path) for group in CLASSES if _names_a_class(content.get(group))}
    # The settings of a run have both. The name of a group that was itself a class has no file.
    named = {g: name for g, name in groups.items() if name and (g not in classes or file_of(g, name).is_file())}
    experiment = file_of("experiment", groups.get("experiment") or "")
    of_experiment = choices_of(experiment, option) if experiment.is_file() and path.parent != experiment.parent else {}
    return of_experiment | classes | named


def _settings(path: Path, option: str) -> dict[str, Any]:
    content = yaml_file.read(path, option)
    for section in SECTIONS:
        if content.get(section, {}) is None:
            raise ValueError(f"{option}: {path} has {section}: without settings; list them, or leave out the key")
    if "config" in content:  # Its choices would not be read.
        raise ValueError(f"{option}: {path} has config: {content['config']}; give each file by a --config of its own")
    for group in GROUPS:
        if isinstance(name := content.get(group), str) and file_of(group, name).is_file():
            raise ValueError(
                f"{option}: {path} has {group}: {name}; the key of a choice is groups: {{{group}: {name}}}"
            )
    return content


def _names_a_class(settings: object) -> bool:
    return isinstance(settings, str) or (isinstance(settings, dict) and "class_path" in settings)
