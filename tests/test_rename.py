"""tools/rename.py renames the package in a clone of the repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import Command
from conftest import ROOT, Fit, clean_environment, copy_store, without_colours

NAME = "another_name"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def rename(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "tools/rename.py", name)


def command(folder: Path, module: str, *options: str) -> str:
    """Run a command of the renamed package, which must end well; return what it prints."""
    environment = clean_environment() | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    started = Command(f"{NAME}.{module}", *options, folder=folder, environment=environment)
    output, _ = started.communicate(timeout=200)
    assert started.returncode == 0, output
    return without_colours(output)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cloned(tmp_path_factory.mktemp("clone"))


def cloned(folder: Path) -> Path:
    assert run(ROOT, "git", "clone", "--quiet", str(ROOT), str(folder)).returncode == 0
    return folder


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = cloned(tmp_path_factory.mktemp("clone"))
    done = rename(clone, NAME)
    assert done.returncode == 0, done.stderr
    return clone


def test_no_module_path_has_the_old_name(renamed: Path) -> None:
    found = run(renamed, "git", "grep", "-nE", r"\bproject(\.[a-z{]|\\\.|/)|import project|from project import")
    key = "[project.optional-dependencies]"  # of TOML
    assert [line for line in found.stdout.splitlines() if not line.endswith(key)] == []
    assert run(renamed, sys.executable, "-S", "-c", f"import {NAME}.models").stderr.endswith("named 'torch'\n")
    assert "No module named 'project'" in run(renamed, sys.executable, "-S", "-c", "import project").stderr
    assert "[project]\nname" in (renamed / "pyproject.toml").read_text()  # the key of TOML
    assert "project template" in (renamed / "pyproject.toml").read_text()  # the word


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_the_renamed_code_passes_lint(renamed: Path, check: tuple[str, ...]) -> None:
    result = run(renamed, sys.executable, "-m", "ruff", *check, "--no-cache", ".")
    assert result.returncode == 0, result.stdout


def test_the_settings_are_those_of_the_renamed_package(renamed: Path) -> None:
    settings = yaml.safe_load(command(renamed, "fit", "--print_config"))
    assert settings["data"]["class_path"] == f"{NAME}.data.Digits"
    assert settings["model"]["init_args"]["net"]["class_path"] == f"{NAME}.models.CNN"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-name", "lowercase letters, digits and underscores"),
        ("class", "is not a keyword"),
        ("torch", "the name of another module"),
        ("json", "the name of another module"),
        ("tests", "the name of another module or of a file here"),
        ("project", "the name of another module or of a file here"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, message: str, clone: Path) -> None:
    refused = rename(clone, name)
    assert refused.returncode == 2
    (error,) = refused.stderr.splitlines()
    assert message in error


def test_uncommitted_changes_are_kept_safe(clone: Path) -> None:
    (clone / "README.md").write_text("mine\n")
    refused = rename(clone, NAME)
    assert refused.returncode == 2
    assert refused.stderr == "error: README.md has changes; commit or stash them first\n"
    assert not (clone / NAME).exists()


@pytest.mark.faults
def test_the_renamed_package_trains_and_its_tests_pass(renamed: Path) -> None:
    copy_store(renamed)
    command(renamed, "fit", "--max_epochs=1", "--trainer.limit_train_batches=2")
    assert Fit(renamed, 0, "").run.info.status == "FINISHED"
    assert f"{NAME}.sweep" in command(renamed, "sweep", "--help")
    shutil.rmtree(renamed / "mlruns")
    tests = run(renamed, sys.executable, "-m", "pytest", "-q", "tests/test_layers.py")
    assert tests.returncode == 0, tests.stdout
