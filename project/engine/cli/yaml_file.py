"""YAML files of settings. YAML's own reader keeps the last of two equal keys, and loses the first without a word."""

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError


def read(path: Path, option: str) -> dict[str, Any]:
    """Return the settings of a YAML file.

    Args:
        path: The file.
        option: The option that names it, such as `--config`; errors begin with it.

    Raises:
        ValueError: The file is malformed, has no settings or a key twice, or a value contains itself.
        OSError: The file cannot be read.
    """
    try:
        content = _content(path.read_text(encoding="utf-8"))
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


def _content(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, (), "", set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: yaml.Node, owners: tuple[yaml.Node, ...], prefix: str, found: set[str]) -> None:
    """Raise an error for a setting that is given twice, also as `a.b: 1` and `a: {b: 2}`, and for recursion."""
    if node in owners:
        raise ConstructorError(problem="a value contains itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        names = set[str]()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(problem="a key must be a name", problem_mark=key.start_mark)
            name = f"{prefix}{key.value}"
            if key.value in names or name in found:
                raise ConstructorError(problem=f"the key {name} is given twice", problem_mark=key.start_mark)
            names.add(key.value)
            if not isinstance(value, yaml.MappingNode):
                found.add(name)
            _check(value, (*owners, node), f"{name}.", found)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check(value, (*owners, node), "", set())


def _brief(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
