"""The command of the best trial, which trains for longer than short trials did."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from tiny import TINY

from project.engine.cli.command_line import CommandLine
from project.engine.search.training_command import TrainingCommand
from project.engine.training.callbacks import build_fit


@pytest.mark.parametrize(("options", "expected"), [
    ([], None),
    (["--max_epochs=20"], None),
    (["--max_epochs", "3"], ["--max_epochs", "10"]),
    (["--trainer.max_epochs=3", "--trainer.limit_train_batches", "2"], ["--max_epochs", "10"]),
    (["--trainer.limit_train_batches=0.1"], []),
    (["--max_epochs=-1", "--trainer.max_steps=39"], ["--max_epochs", "10"]),  # An epoch has four steps.
    (["--max_epochs=-1", "--trainer.max_steps=40"], None),
])  # fmt: skip
def test_short_trials_lead_to_a_longer_training(
    options: list[str], expected: list[str] | None, workplace: Path
) -> None:
    argv = [*options, *TINY]
    built = build_fit(CommandLine.parse(argv))
    built.data.setup("fit")
    command = TrainingCommand("project.fit", built)
    lr = {"model.optimizer.lr": FloatDistribution(0, 1)}
    words = command(argv, create_trial(value=1.0, params={"model.optimizer.lr": 0.5}, distributions=lr)).split()
    assert command.is_longer == (expected is not None)
    kept = argv if expected is None else [*TINY, *expected]
    assert words == ["python", "-m", "project.fit", *kept, "--model.optimizer.lr=0.5"]
