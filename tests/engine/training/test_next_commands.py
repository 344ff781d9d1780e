"""The commands that a fit suggests, which are about its own run, data and model."""

import shlex
from pathlib import Path

import pytest
from conftest import Fit, write_folder
from tiny import COMPLETE, TINY

from project.engine.cli.command_line import CommandLine
from project.engine.training.callbacks import build_fit
from project.engine.training.fit_run import _FitRun
from project.engine.training.job import open_job
from project.engine.training.next_commands import next_commands
from project.fit import main


def commands_of(*options: str) -> dict[str, str]:
    """Return the commands of a fit whose data is loaded."""
    cli = build_fit(CommandLine.parse(options))
    cli.data.setup("fit")
    return next_commands(cli, "1234")


@pytest.mark.parametrize(("options", "expected"), [
    (["--data=image_folder", "--data.root=my photos", "--data.batch_size=4", "--max_epochs=1"],
     "--search cnn --data image_folder --data.root 'my photos' --max_epochs 1 --n_trials 8 --n_jobs 2"),
    (["--data=image_folder", "--data.root=my photos", "--model=resnet18", "--model.optimizer.lr", "0.01"],
     "--search optimizer --data image_folder --data.root 'my photos' --model resnet18 --n_trials"),
    (["--model.metrics.f1=torchmetrics.classification.MulticlassF1Score"],
     "--search cnn --model.metrics.f1 torchmetrics.classification.MulticlassF1Score --n_trials"),
    ([*COMPLETE, "--model.optimizer=SGD", "--strategy=ddp", "--devices=2", "--checkpoint.monitor=val/loss",
      "--model.optimizer.init_args.lr=1", "--trainer.limit_train_batches=0.5", "--trainer.logger=false"],
     "--model.net tiny.TinyNet --model.optimizer SGD --strategy ddp --devices 2 --trainer.limit_train_batches 0.5"),
])  # fmt: skip
def test_the_search_is_on_the_same_data_and_model(options: list[str], expected: str, workplace: Path) -> None:
    write_folder(Path("my photos"), count=40)
    assert expected in commands_of(*options)["search"]


def test_the_search_has_no_batches_that_are_larger_than_train(workplace: Path) -> None:
    write_folder(Path("photos"), count=20)
    options = ["--data=image_folder", "--data.root=photos", "--data.batch_size=4"]
    assert "--search optimizer" in commands_of(*options)["search"]


@pytest.mark.parametrize("sizes", ["[16, 32]", "{type: categorical, choices: 16}"])
def test_a_search_space_that_is_not_valid_does_not_end_a_fit(sizes: str, workplace: Path) -> None:
    (mine := Path("configs/search/mine.yaml")).parent.mkdir(parents=True)
    mine.write_text(f"metric: val/accuracy\ndirection: maximize\nspace: {{data.batch_size: {sizes}}}")
    assert "--search" in commands_of(*TINY)["search"]


def test_a_run_can_be_evaluated_and_predicts_images(workplace: Path) -> None:
    commands = commands_of(*TINY)
    assert commands["evaluate"] == "python -m project.evaluate 1234"
    assert commands["predict"] == "python -m project.predict 1234 DIR"
    assert commands["export"] == "python -m project.export 1234"
    assert "evaluate" not in commands_of(*TINY, "--trainer.limit_test_batches=0")  # It would have no batch either.
    plain = commands_of("--model=test_any_module.Slope", "--data=test_any_module.Line")
    assert not {"evaluate", "predict", "export"} & plain.keys()


def test_a_run_that_cannot_be_resumed_has_no_command_for_it(workplace: Path) -> None:
    averaging = ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    assert "resume" not in commands_of(*TINY, *averaging)
    interrupted = _FitRun(build_fit(CommandLine.parse([*TINY, *averaging])), None)
    assert interrupted.continuation.startswith("the run cannot be resumed: StochasticWeightAveraging stores no")
    assert "resume" in commands_of(*TINY)


def test_a_model_without_a_search_space_has_no_search(workplace: Path) -> None:
    assert "search" not in commands_of("--model=test_any_module.Slope", "--data=test_any_module.Line")


@pytest.mark.parametrize(("limits", "longer"), [
    pytest.param(["--max_epochs=1"], ["--max_epochs", "2"], marks=pytest.mark.faults),
    pytest.param(["--max_epochs=-1", "--trainer.max_steps=3"], ["--trainer.max_steps", "6"], marks=pytest.mark.faults),
    (["--max_epochs=1", "--trainer.max_steps=4"], ["--trainer.max_steps", "8", "--max_epochs", "2"]),
])  # fmt: skip
def test_the_resume_command_trains_longer(limits: list[str], longer: list[str], workplace: Path) -> None:
    main([*TINY, *limits])
    run_id = Fit(workplace, 0, "").run.info.run_id
    with open_job(["--resume", run_id, *longer]) as job:
        job.trainer.fit(job.model, job.datamodule, ckpt_path=job.resume_from)
        assert job.trainer.global_step > 3
        commands = next_commands(job.cli, run_id)
    assert "search" not in commands  # The settings of the run were not typed again.
    words = shlex.split(commands["resume"])
    assert words[:5] == ["python", "-m", "project.fit", "--resume", run_id]
    assert int(words[-1]) == 2 * int(longer[-1])
