"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from commands import Command
from conftest import clean_environment, copy_of_the_project

ROOT = Path(__file__).parent.parent
SHORT_RUN = (
    "--max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
)
TEST_ACCURACY = re.compile(r"test[ /]accuracy\s+[01]\.\d+")


class Recipe(NamedTuple):
    """Files by their path in the repository, and the words of the command."""

    files: dict[str, str]
    command: list[str]


def recipes() -> dict[str, Recipe]:
    """The sections "Add a ..." by their subject."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = {}
    for section in text.split("\n## Add a ")[1:]:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        files = {body.split("\n", 1)[0].removeprefix("# "): body for language, body in blocks if language != "bash"}
        (command,) = (body for language, body in blocks if language == "bash")
        found[section.split("\n", 1)[0]] = Recipe(files, shlex.split(command))
    return found


RECIPES = recipes()
SEARCH_SPACE = yaml.safe_load(*RECIPES["search space"].files.values())


def followed(folder: Path) -> Path:
    """Copy the project into this folder and follow every recipe there."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    copy_of_the_project(folder)
    for recipe in RECIPES.values():
        for name, content in recipe.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    return folder


def fit(folder: Path, options: list[str]) -> Command:
    """Start a short `fit` of the project in this folder, and of no other."""
    environment = clean_environment() | {"PYTHONPATH": str(folder)}
    return Command("project.fit", *options, *SHORT_RUN, folder=folder, environment=environment, new_session=True)


def fit_options(subject: str) -> list[str]:
    """What a recipe's command says after `python -m project.fit`."""
    command = RECIPES[subject].command
    assert command[:3] == ["python", "-m", "project.fit"]
    return command[3:]


def a_value(parameter: dict[str, Any]) -> Any:
    """A value of this range of a search space."""
    return parameter["low"] if "low" in parameter else parameter["choices"][0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    """The two commands that train, at the same time and in copies of their own."""
    searched = [f"--{key}={a_value(parameter)}" for key, parameter in SEARCH_SPACE["space"].items()]
    options = {
        "model, dataset, search space": [*fit_options("model"), *fit_options("dataset"), *searched],
        "strategy": fit_options("strategy"),
    }
    started = {name: fit(followed(tmp_path_factory.mktemp("copy")), words) for name, words in options.items()}
    yield started
    for process in started.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        process.communicate()


@pytest.mark.parametrize(
    ("subject", "files"),
    [
        ("model", [r"project/models/\w+\.py", r"configs/model/\w+\.yaml"]),
        ("dataset", [r"project/data/\w+\.py", r"configs/data/\w+\.yaml"]),
        ("strategy", [r"configs/strategy/\w+\.yaml"]),
        ("search space", [r"configs/search/\w+\.yaml"]),
    ],
)
def test_a_recipe_adds_these_files_and_changes_none(subject: str, files: list[str]) -> None:
    names = list(RECIPES[subject].files)
    assert len(names) == len(files)
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(files, names, strict=True)), names
    assert not [name for name in names if (ROOT / name).exists()]


@pytest.mark.parametrize("followed_in_it", ["model, dataset, search space", "strategy"])
def test_what_was_added_trains_to_a_test_accuracy(runs: dict[str, Command], followed_in_it: str) -> None:
    process = runs[followed_in_it]
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert TEST_ACCURACY.search(output), output


def test_the_search_space_says_what_is_searched_and_the_command_names_it() -> None:
    assert set(SEARCH_SPACE) == {"metric", "direction", "space"}
    assert SEARCH_SPACE["space"]
    assert SEARCH_SPACE["direction"] in ("minimize", "maximize")
    (name,) = (Path(file).stem for file in RECIPES["search space"].files)
    command = RECIPES["search space"].command
    assert command[:3] == ["python", "-m", "project.sweep"]
    assert command[command.index("--search") + 1] == name


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_the_code_of_the_recipes_passes_the_projects_own_lint(tmp_path: Path, check: tuple[str, ...]) -> None:
    files = [name for recipe in RECIPES.values() for name in recipe.files if name.endswith(".py")]
    assert files
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *check, "--no-cache", *files],
        cwd=followed(tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
