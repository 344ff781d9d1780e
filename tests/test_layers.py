"""Imports go down the layers, and no module imports itself through others; imports under TYPE_CHECKING count."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from conftest import ROOT

# From top to bottom. Packages in one row may import each other if no cycle of modules results.
LAYERS = [
    ("commands",),
    ("engine.search", "engine.inference", "engine.comparison", "engine.inspection"),
    ("engine.training",),
    ("engine.cli",),
    ("tasks", "data"),
    ("engine.monitor", "engine.task", "engine.task_checks"),
    ("engine.loading", "engine.tracking", "engine.checkpoints"),
    (
        "models",
        "engine.runtime",
        "engine.data",
        "engine.schedule",
        "engine.evaluation",
        "engine.compat",
        "engine.atomic",
    ),
]
COMMANDS = {path.stem for path in (ROOT / "project").glob("*.py") if path.stem != "__init__"}


@cache
def modules() -> dict[str, Path]:
    """Map the dotted name of every module to its file; a package has the name of its folder."""
    found = {}
    for path in (ROOT / "project").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Return the modules of the project that a file imports, at any place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = [name for alias in node.names if (name := f"{node.module}.{alias.name}") in known]
            yield from inside
            if len(inside) < len(node.names):
                yield node.module


def layer(module: str) -> int:
    """Return the number of a module's layer, counted from the top."""
    name = module.removeprefix("project.")
    if name in COMMANDS:
        return 0
    return next(n for n, row in enumerate(LAYERS) if any(name == one or name.startswith(f"{one}.") for one in row))


@cache
def arrows() -> set[tuple[str, str]]:
    known = modules()
    return {
        (module, other)
        for module, path in known.items()
        for other in imported(path, known)
        if other != module and "project" not in (module, other)
    }


def test_imports_go_down_the_layers() -> None:
    assert not {arrow for arrow in arrows() if layer(arrow[0]) > layer(arrow[1])}


def test_no_module_imports_itself_through_others() -> None:
    below: dict[str, set[str]] = {}
    for module, other in arrows():
        if modules()[other].name != "__init__.py":  # A package re-exports the names of its modules.
            below.setdefault(module, set()).add(other)

    def cycle(path: list[str]) -> list[str] | None:
        for other in below.get(path[-1], ()):
            if other in path:
                return [*path[path.index(other) :], other]
            if other not in done and (found := cycle([*path, other])):
                return found
        done.add(path[-1])
        return None

    done: set[str] = set()
    for module in below:
        assert cycle([module]) is None


def test_the_engine_has_no_word_of_a_task() -> None:
    """A new task, dataset or example does not change the engine."""
    theirs = [
        *(ROOT / "project/tasks").glob("*.py"),
        *(ROOT / "project/data").glob("*.py"),
        *(ROOT / "examples").glob("*.py"),
    ]
    classes = {
        node.name for path in theirs for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    }
    assert {"ImageClassifier", "Digits", "UNet"} <= classes
    words = classes | {"accuracy", "class_names", "num_classes", "cross_entropy", "mae", "iou", "f1"}
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    found = {path: pattern.findall(path.read_text()) for path in (ROOT / "project/engine").rglob("*.py")}
    assert not {path: words for path, words in found.items() if words}
