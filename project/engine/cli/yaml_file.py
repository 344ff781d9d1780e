"""YAML files of settings. YAML's own reader keeps the last of two equal keys, and loses the first without a word."""

import os
import shutil
from collections.abc import Hashable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override
from yaml.constructor import ConstructorError

SUFFIXES = (".yaml", ".yml")
COPIES = "PROJECT_COPIES_OF_SETTINGS"
"""Environment variable: a folder of `copy_to`, whose copies are read instead of the files."""


def copy_to(folder: Path, files: Iterable[Path]) -> None:
    """Copy files for processes that get `COPIES`, so that all of them have the same settings if a file changes."""
    for file in files:
        shutil.copy2(file, folder / _name_of_copy(file))


def current(file: Path) -> Path:
    """Return the copy of a file that this process reads, or the file itself if there is none."""
    copy = Path(os.environ[COPIES], _name_of_copy(file)) if COPIES in os.environ else file
    return copy if copy.exists() else file


def _name_of_copy(file: Path) -> str:
    return sha256(os.fsencode(file.absolute())).hexdigest() + file.suffix


def read(path: Path, option: str) -> dict[str, Any]:
    """Return the settings of a YAML file.

    Args:
        path: The file.
        option: The option that names it, such as `--config`; errors begin with it.

    Raises:
        ValueError: The file is malformed, has no settings or a key twice.
        OSError: The file cannot be read.
    """
    try:
        content = yaml.load(current(path).read_text(encoding="utf-8"), _Loader)  # It is a SafeLoader.
    except OSError as error:
        raise OSError(f"{option}: cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{option}: {path} is not valid YAML: {_brief(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {path} is not a text file: {error}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"contains a {type(content).__name__}"
        raise ValueError(f"{option}: {path} {found}; expected settings, each with its name")
    return content


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that is given twice."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                raise ConstructorError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _brief(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
