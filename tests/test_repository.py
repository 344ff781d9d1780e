"""The rules of the repository: imports of models, the Docker image, the lock file, CI and the files that git tracks."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
MAKE_TARGETS = ["help", "install", "upgrade", "format", "check", "test", "faults", "browser", "terminals", "gpu"]
LARGEST_FILE_BYTES = 1_000_000


def imports(path: Path) -> Iterator[str]:
    """Return the modules that a file imports, at any place; `from a import b` counts as `a.b`."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def is_inside(module: str, package: str) -> bool:
    """Report whether a dotted name is this package or a name in it."""
    return f"{module}.".startswith(f"{package}.")


def tracked_files(*paths: str) -> list[str]:
    """List the files that git tracks, all of them or those under these paths."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *paths], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return listed.stdout.split("\0")[:-1]


def instructions(name: str) -> list[str]:
    """List the arguments of each instruction of this name in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.+)$", text, re.MULTILINE)


def is_let_through(path: str) -> bool:
    """Report whether .dockerignore leaves a path in the build context; the last matching pattern decides."""
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    let_through = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!").strip("/")
        if not pattern or pattern.startswith("#"):
            continue
        words = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        # A pattern that matches a folder also matches all files in it.
        if re.fullmatch("".join(wildcards.get(word, re.escape(word)) for word in words) + "(?:/.*)?", path):
            let_through = line.strip().startswith("!")
    return let_through


def copied_paths() -> list[str]:
    """List the sources of every COPY from the build context."""
    copies = [line.split() for line in instructions("COPY") if "--from" not in line]
    return [word for words in copies for word in words[:-1] if not word.startswith("--")]


def locked_requirements() -> list[str]:
    """List the entries of requirements.lock, each on one line with its hashes."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def declared_requirements() -> list[str]:
    """List the requirements in pyproject.toml: those of the project, and those of its checks."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared: list[str] = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    return declared


def workflow_commands() -> list[str]:
    """List the shell commands of every workflow, in order."""
    commands = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.y*ml")):
        workflow: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        for job in workflow["jobs"].values():
            for tests in job["strategy"]["matrix"]["tests"]:
                steps = [step["run"] for step in job["steps"] if "run" in step]
                commands += [step.replace("${{ matrix.tests }}", tests) for step in steps]
    return commands


def test_models_import_only_torch() -> None:
    allowed = ("project.models", "torch", "torchvision", *sys.stdlib_module_names)
    files = sorted((ROOT / "project/models").glob("*.py"))
    imported = [(file.name, name) for file in files for name in imports(file)]
    assert imported
    assert [pair for pair in imported if not any(is_inside(pair[1], package) for package in allowed)] == []


@pytest.mark.parametrize("path", copied_paths())
def test_the_files_that_the_dockerfile_copies_exist_and_are_in_the_build_context(path: str) -> None:
    files = tracked_files(path)
    assert (ROOT / path).exists()
    assert files, f"git does not track {path}"
    assert [file for file in files if not is_let_through(file)] == []


def test_the_image_runs_an_existing_module_as_another_user_than_root() -> None:
    command = json.loads(instructions("CMD")[-1])
    module = command[command.index("-m") + 1]
    assert importlib.util.find_spec(module) is not None
    assert any(Path(module.replace(".", "/") + ".py").is_relative_to(path) for path in copied_paths())
    assert instructions("USER")[-1].split(":")[0] not in ("root", "0")


@pytest.mark.parametrize(
    "path", ["mlruns/mlflow.db", ".git/config", "tests/test_repository.py", "project/__pycache__/cli.pyc"]
)
def test_the_build_context_contains_only_the_copied_files(path: str) -> None:
    assert not is_let_through(path)


def test_the_lock_pins_every_requirement_by_hash_and_names_no_index() -> None:
    locked = locked_requirements()
    assert locked
    assert [line for line in locked if not re.match(r"[\w.\[\],-]+==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
    assert [line for line in locked if "://" in line or "--index" in line or "--find-links" in line] == []


def test_uv_resolves_to_the_versions_of_the_lock() -> None:
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    constraints = {str(Requirement(line)) for line in uv["constraint-dependencies"]}
    assert constraints == {str(Requirement(line.partition(" --hash")[0])) for line in locked_requirements()}
    assert set(uv) == {"constraint-dependencies"}  # No line names an index.


@pytest.mark.parametrize("declared", declared_requirements())
def test_the_locked_versions_satisfy_pyproject(declared: str) -> None:
    asked = Requirement(declared)
    pins = [re.match(r"([\w.-]+)(?:\[.*\])?==([^\s;]+)", line) for line in locked_requirements()]
    versions = [pin[2] for pin in pins if pin and canonicalize_name(pin[1]) == canonicalize_name(asked.name)]
    assert versions, f"{asked.name} is not locked"
    assert [version for version in versions if version not in asked.specifier] == []


def test_ci_runs_the_same_commands_as_a_developer() -> None:
    commands = workflow_commands()
    assert [command for command in commands if re.search(r"\b(make|pytest|ruff|mypy)\b", command)] == [
        "make check test",
        "make check faults",
    ]


def test_the_makefile_has_these_targets_and_no_others() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^([\w./-]+)\s*:(?!=)", makefile, re.MULTILINE) == [".PHONY", *MAKE_TARGETS]
    assert re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[0].split() == MAKE_TARGETS


def test_each_guarantee_names_tests_that_exist() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = re.search(r"\| fault \| guarantee \| test \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", text)
    assert rows
    named = [re.findall(r"`(tests/[\w/.]+\.py)`", row.split(" | ")[-1]) for row in rows[1].splitlines()]
    assert all(named)
    assert [path for paths in named for path in paths if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", [path for path in tracked_files() if path.endswith(".md")])
def test_each_link_of_a_page_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []
    if page.startswith("docs/"):  # Readers find the pages by the README.
        assert f"]({page})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_tracked_file_is_large() -> None:
    files = [ROOT / name for name in tracked_files()]
    assert files
    assert [path for path in files if path.is_file() and path.stat().st_size > LARGEST_FILE_BYTES] == []


def test_git_tracks_mlruns_as_an_empty_folder() -> None:
    assert tracked_files("mlruns") == ["mlruns/.gitkeep"]
