"""The option that a person may have meant, for words that are not near its name."""

from pathlib import Path

import pytest

from project.engine.cli.command_line import CommandLine
from project.engine.cli.nearest import OTHER_NAMES, children, suggestion
from project.engine.runtime.process import configure_process
from project.engine.training.callbacks import build_fit

OPTIONS = ("data.batch_size", "data.workers.num", "devices", "model.optimizer.lr", "seed_everything", "trainer.devices")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "model.optimizer.lr"),
        ("learning-rate", "model.optimizer.lr"),
        ("num_workers", "data.workers.num"),
        ("seed", "seed_everything"),
        ("gpus", "devices"),
        ("trainer.gpus", "trainer.devices"),
        ("data.bs", "data.batch_size"),
        ("data.batch-size", "data.batch_size"),
    ],
)
def test_an_option_is_found_by_its_name_in_other_projects(word: str, meant: str) -> None:
    siblings = children(word.rpartition(".")[0], OPTIONS)
    assert suggestion(word, siblings, OPTIONS) == f"did you mean --{meant}?"


def test_each_name_in_other_projects_leads_to_an_option(workplace: Path) -> None:
    configure_process()
    fit = build_fit(CommandLine.parse([]))
    options = [*fit.command.names, *fit.default_settings]
    for word, last in OTHER_NAMES.items():
        meant = suggestion(word, children("", options), options).removeprefix("did you mean --").removesuffix("?")
        assert meant in options
        assert f".{meant}".endswith(f".{last}")
