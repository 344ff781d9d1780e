"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import re
import shlex
import shutil
import subprocess
import sys
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from commands import Command
from conftest import ROOT, Fit, clean_environment, copy_of_the_project, copy_store, run_ranks, without_colours

SHORT_RUN = (
    "--max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.log_every_n_steps=1",
)
CLASSES = 2  # of the dataset of the recipe

# Follows the augmentation in the copy: the images are dark, their negatives are bright.
SEEN = """
from lightning import Callback

class Seen(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        bright = batch[0].float().mean((1, 2, 3)) > 127
        pl_module.log("inverted", bright.float().mean())
"""


class Recipe(NamedTuple):
    """Files by their path in the repository, and the words of the command."""

    files: dict[str, str]
    command: list[str]

    @property
    def options(self) -> list[str]:
        """What the command says after `python -m project.fit`."""
        assert self.command[:3] == ["python", "-m", "project.fit"]
        return self.command[3:]


def recipes() -> dict[str, Recipe]:
    """The sections by the first noun of their heading: model, dataset, and so on."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = {}
    for subject, section in re.findall(r"^## (?:Add (?:an? )?|Rename the )(.*?)$(.*?)(?=^## |\Z)", text, re.M | re.S):
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S)
        files = {body.split("\n", 1)[0].removeprefix("# "): body for language, body in blocks if language != "bash"}
        (command,) = (body for language, body in blocks if language == "bash")
        found[subject.removesuffix(" and monitor it")] = Recipe(files, shlex.split(command))
    return found


RECIPES = recipes()
SEARCH_SPACE = yaml.safe_load(*RECIPES["search space"].files.values())
TOGETHER = ["dataset", "model", "loss", "metric", "augmentation", "optimizer groups", "callback"]


def followed(folder: Path) -> Path:
    """Copy the project into this folder and follow every recipe that adds files there."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    copy_of_the_project(folder)
    copy_store(folder)
    for recipe in RECIPES.values():
        for name, content in recipe.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    (folder / "seen.py").write_text(SEEN)
    return folder


def start(folder: Path, module: str, *options: str) -> Command:
    """Start a command of the project in this folder, and of no other."""
    environment = clean_environment() | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return Command(module, *options, *SHORT_RUN, folder=folder, environment=environment)


def finished(command: Command, folder: Path) -> Fit:
    """Wait until a command has ended well."""
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 0, output
    return Fit(folder, 0, without_colours(output))


def a_value(parameter: dict[str, Any]) -> Any:
    """A value of this range of a search space."""
    return parameter["low"] if "low" in parameter else parameter["choices"][0]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return followed(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def together(copy: Path) -> Fit:
    """One fit with the options of all recipes that go together."""
    searched = [f"--{key}={a_value(parameter)}" for key, parameter in SEARCH_SPACE["space"].items()]
    options = [option for subject in TOGETHER for option in RECIPES[subject].options]
    return finished(start(copy, "project.fit", *options, *searched, "--trainer.callbacks+=seen.Seen"), copy)


@pytest.mark.parametrize(
    ("subject", "files"),
    [
        ("model", [r"project/models/\w+\.py", r"configs/model/\w+\.yaml"]),
        ("dataset", [r"project/data/\w+\.py", r"configs/data/\w+\.yaml"]),
        ("task", [r"project/tasks/\w+\.py"]),
        ("loss", [r"project/tasks/\w+\.py"]),
        ("metric", [r"configs/experiment/\w+\.yaml"]),
        ("augmentation", [r"project/data/\w+\.py"]),
        ("optimizer groups", [r"project/tasks/\w+\.py"]),
        ("callback", [r"project/tasks/\w+\.py"]),
        ("strategy", [r"configs/strategy/\w+\.yaml"]),
        ("search space", [r"configs/search/\w+\.yaml"]),
        ("package", []),
    ],
)
def test_a_recipe_adds_a_file_and_at_most_one_yaml_and_none_to_the_engine(subject: str, files: list[str]) -> None:
    names = list(RECIPES[subject].files)
    assert len(names) == len(files)
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(files, names, strict=True)), names


def test_a_model_a_dataset_and_a_search_space_are_those_of_the_run(together: Fit) -> None:
    params = together.run.data.params
    assert (params["data"], params["model.net"]) == ("project.data.shapes.Shapes", "project.models.mlp.MLP")
    for name, parameter in SEARCH_SPACE["space"].items():
        assert params[name] == str(a_value(parameter))


def test_a_loss_is_what_is_minimized(together: Fit) -> None:
    first = together.client.get_metric_history(together.run.info.run_id, "train/loss")[0].value
    assert 0 < first < log(CLASSES) / 2  # the cross-entropy of a net that has learned nothing is log(CLASSES) or more


def test_a_metric_is_logged_and_selects_the_best_checkpoint(together: Fit) -> None:
    names = {"train/f1", "val/f1", "test/f1", "best/val/f1", "test/recall", "test/accuracy"}
    assert names <= set(together.run.data.metrics)
    assert together.run.data.tags["monitor"] == "val/f1 (max)"


def test_an_augmentation_changes_half_of_the_training_images(together: Fit) -> None:
    points = together.client.get_metric_history(together.run.info.run_id, "inverted")
    assert [point for point in points if not 0.25 < point.value < 0.75] == []
    assert len(points) == 2


def test_optimizer_groups_differ_in_decay_and_rate(together: Fit) -> None:
    (path,) = (together.folder / "mlruns/checkpoints" / together.run.info.run_id).glob("last.ckpt")
    groups = torch.load(path, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.01, 0, 0.01, 0]  # the weights and the biases of two layers
    rates = [group["initial_lr"] for group in groups]
    assert rates == pytest.approx([rates[-1] / 2, rates[-1] / 2, rates[-1], rates[-1]])
    assert rates[-1] == a_value(SEARCH_SPACE["space"]["model.optimizer.lr"])


def test_a_callback_logs_its_metric(together: Fit) -> None:
    assert together.run.data.metrics["train/gradient_norm"] > 0


@pytest.mark.faults
def test_a_task_trains_with_a_strategy(tmp_path: Path, copy: Path) -> None:
    shutil.copytree(copy, tmp_path, ignore=shutil.ignore_patterns("mlruns"), dirs_exist_ok=True)
    copy_store(tmp_path)
    options = [*RECIPES["task"].options, *RECIPES["strategy"].options]
    run_ranks("project.fit", *options, *SHORT_RUN, folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    run = Fit(tmp_path, 0, "").run
    assert 0 < run.data.metrics["test/mae"] < 10  # digits
    assert run.data.tags["monitor"] == "val/mae (min)"
    assert (run.data.tags["strategy"], run.data.tags["devices"]) == ("ddp_bf16", "2 CPU")
    assert run.data.params["trainer.precision"] == "bf16-mixed"


@pytest.mark.faults
@pytest.mark.parametrize("subject", [*TOGETHER, "task", "strategy", "search space"])
def test_the_command_of_a_recipe_works_by_itself(subject: str, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path, ignore=shutil.ignore_patterns("mlruns"), dirs_exist_ok=True)
    copy_store(tmp_path)
    done = finished(start(tmp_path, *RECIPES[subject].command[2:]), tmp_path)
    assert {run.info.status for run in done.runs} == {"FINISHED"}
    if subject == "search space":
        widths = [int(run.data.params["model.net.width"]) for run in done.runs if "model.net.width" in run.data.params]
        assert len(widths) == 4
        assert all(32 <= width <= 256 and width % 32 == 0 for width in widths)


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_the_code_of_the_recipes_passes_the_projects_own_lint(copy: Path, check: tuple[str, ...]) -> None:
    files = [name for recipe in RECIPES.values() for name in recipe.files if name.endswith(".py")]
    assert files
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *check, "--no-cache", *files], cwd=copy, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
