"""Answers of `fit` that need no import of torch, from what an earlier fit has learned of the options."""

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
from conftest import clean_environment

from project.engine.cli.command_line import CommandLine
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.known_options import KnownOptions, as_known, check_early
from project.engine.training.callbacks import build_fit
from project.fit import main
from project.sweep import main as sweep

TYPOS = (
    "--dta=mnist", "--nonsense=1", "--trainer.max_epoch=3", "--trainer.nonsense=3", "--data.batch_sze=3",
    "--data.augmentation.cutot=3", "--model.net.dropot=0.1", "--model.nett=1", "--checkpoint.mod=max",
)  # fmt: skip
VALID = (
    "--data.help", "--trainer.callbacks+=EarlyStopping", "--trainer.logger.save_dir=x", "--model.optimizer.fused=1",
    "--model.metrics.f1=torchmetrics.F1Score", "--model.net.class_path=x.Y", "--print_config",
    "--max_epochs=null", "--data.batch_size=1_000", "--trainer.gradient_clip_val=inf", "--data.on_device=TRUE",
)  # fmt: skip
RUN = """if True:
    import runpy, sys
    try:
        runpy.run_module("project.fit", run_name="__main__", alter_sys=True)
    finally:
        print("torch" in sys.modules, "mlflow" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def learned(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The page of `--help`, whose making writes what is known of the options."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main(["--help"])
    return capsys.readouterr().out


def early(*argv: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *argv], env=clean_environment(), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_help_is_the_same_without_torch(learned: str) -> None:
    assert early("--help") == (0, learned, "False False\n")


def test_a_mistyped_option_is_refused_without_torch(learned: str) -> None:
    assert early("--data.batch_sze", "3") == (
        2, "", "error: unknown option --data.batch_sze; did you mean --data.batch_size?\nFalse False\n"
    )  # fmt: skip


def test_a_mistyped_option_of_a_sweep_is_refused_before_its_imports(
    learned: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("project.sweep.preloaded_forkserver", None)
    for option, meant in {"--n_trial=3": "--n_trials", "--serch=cnn": "--search"}.items():
        with pytest.raises(SystemExit, match="2"):
            sweep([option])
        assert capsys.readouterr().err == f"error: unknown option {option.split('=')[0]}; did you mean {meant}?\n"


def test_a_mistyped_option_has_the_same_error_as_later(learned: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = KnownOptions.load(CommandLine.parse([]).defaults)
    assert known is not None
    for typo in TYPOS:
        with pytest.raises(SystemExit):
            main([typo])
        late = capsys.readouterr().err
        with pytest.raises(SystemExit), exit_on_bad_input():
            raise ValueError(known.refusal(CommandLine.parse([typo])))
        assert capsys.readouterr().err == late


def test_a_value_of_the_wrong_type_is_refused_without_torch(learned: str) -> None:
    assert early("--max_epochs", "many") == (
        2, "", "error: --trainer.max_epochs: got 'many'; expected one of int, null\nFalse False\n"
    )  # fmt: skip


@pytest.mark.faults
def test_a_value_of_the_wrong_type_has_the_same_error_as_later(learned: str) -> None:
    known = KnownOptions.load(CommandLine.parse([]).defaults)
    assert known is not None
    assert len(known.types) > 40
    values = cycle(("many", "0.5", "10.0"))
    for name, types in known.types.items():
        value = next(values) if {*types} <= {"int", "NoneType"} else "many"
        command = CommandLine.parse([f"--{name}={value}"])
        with pytest.raises(ValueError, match="expected") as late:
            build_fit(command)
        assert known.refusal(command) == str(late.value)


def test_a_file_of_settings_is_left_to_the_parser(learned: str) -> None:
    Path("other.yaml").write_text("model: {net: torch.nn.Linear}")
    assert check_early(CommandLine.parse(["--config=other.yaml", "--model.net.in_features=3"])) is None


def test_no_valid_option_is_refused_early(learned: str) -> None:
    known = KnownOptions.load(CommandLine.parse([]).defaults)
    assert known is not None
    assert {option: known.refusal(CommandLine.parse([option])) for option in VALID} == dict.fromkeys(VALID)
    other = CommandLine.parse(["--model.net", "torch.nn.Linear", "--model.net.in_features", "3"])
    assert known.refusal(other) is None


def test_what_is_known_counts_until_a_file_changes(learned: str) -> None:
    file = Path("configs", "data", "mine.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("data: project.data.Digits\n")
    defaults = CommandLine.parse(["--data=mine"]).defaults
    settings = {"data": "project.data.Digits", "data.batch_size": 32}
    types = {"data.batch_size": int, "data.root": Path | None}
    as_known({"data.batch_size": "samples"}, settings, types).save(defaults)
    assert KnownOptions.load(defaults) == ({"data.batch_size": "samples"}, settings, {"data.batch_size": ["int"]})
    file.write_text("data: project.data.MNIST\n")
    assert KnownOptions.load(defaults) is None
    as_known({}, settings | {"data": "elsewhere.Data"}, {}).save(defaults)  # Its files may change unseen.
    assert KnownOptions.load(defaults) is None
