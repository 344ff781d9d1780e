"""The header that a fit prints before its first batch."""

import sys
from pathlib import Path

import pytest
from conftest import Fit, write_folder
from mlflow import MlflowClient
from tiny import COMPLETE, TINY
from torch import Tensor, nn

from project.engine.cli.command_line import CommandLine
from project.engine.runtime.devices import CPU_CORES
from project.engine.training.callbacks import build_fit
from project.engine.training.header import print_line
from project.engine.training.job import open_job
from project.fit import main


class HalfFrozen(nn.Module):
    """Two linear layers, of which the first one is not trained."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(in_channels * image_size**2, 3), nn.Linear(3, num_classes)
        self.body.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)))


def header(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Return what a fit prints before its first batch; each line fits in 80 columns."""
    with open_job([*options, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]):
        lines = capsys.readouterr().out.splitlines()
    lines = lines[: 1 + next(place for place, line in enumerate(lines) if line.startswith("run "))]
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 80
    return lines


@pytest.mark.parametrize(("options", "model", "device", "run"), [
    ([], "TinyNet (ImageClassifier), 130 parameters", "32-true, batch 4",
     "TinyNet batch_size=4 crop_padding=0 acceler…; live: python -m project.ui"),
    (["--model.net=test_header.HalfFrozen", "--trainer.accumulate_grad_batches=2", "--precision=bf16-mixed",
      "--trainer.logger=false"],
     "HalfFrozen (ImageClassifier), 203 parameters, 8 of them trained",
     "bf16-mixed, batch 8 (4 x 2 steps)", "not tracked"),
], ids=["tracked", "untracked"])  # fmt: skip
def test_a_header_shows_data_model_device_and_run(
    options: list[str], model: str, device: str, run: str,
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(CPU_CORES, "3")
    assert header(capsys, *COMPLETE, "--max_epochs=1", *options) == [
        "data    tiny: 2 classes, 8x8 pixels; train 16, val 8, test 8",
        "        train dark 8, bright 8; val dark 4, bright 4; test dark 4, bright 4",
        f"model   {model}",
        f"device  CPU with 3 cores, strategy single, {device}",
        f"run     {run}",
    ]


@pytest.mark.parametrize(("options", "name"), [
    ([], "single"),
    (["--strategy=ddp"], "ddp"),
    (["--trainer.strategy=ddp_find_unused_parameters_true"], "ddp_find_unused_parameters_true"),
])  # fmt: skip
def test_a_strategy_of_lightning_has_its_own_name(options: list[str], name: str, workplace: Path) -> None:
    assert build_fit(CommandLine.parse([*TINY, *options, "--devices=1"])).strategy_name == name


@pytest.mark.faults
def test_what_was_left_out_takes_the_place_of_the_counts_per_class(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("photos"))
    Path("photos/train/red/0.png").write_bytes(b"damaged")
    options = ["--data=image_folder", "--data.root=photos", "--data.on_bad_image=skip", "--data.max_bad_percent=50",
               "--data.batch_size=4", "--model=tiny.TinyTask", "--model.net=tiny.TinyNet"]  # fmt: skip
    data, left_out, model, *_ = header(capsys, *options, "--max_epochs=1")
    assert data.startswith("data    photos: 2 classes")
    assert left_out.startswith("        left out: 1 ")
    assert model.startswith("model   ")


@pytest.mark.faults
def test_a_resumed_run_keeps_its_name(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, "--max_epochs=1"])
    capsys.readouterr()
    run_id = Fit(workplace, 0, "").run.info.run_id
    MlflowClient().update_run(run_id, name="my best")
    again = header(capsys, "--resume", run_id, "--max_epochs=2")
    assert again[-1] == "run     my best (resumed); live: python -m project.ui"


def test_classes_that_declare_nothing_have_names(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = header(capsys, "--model=test_any_module.Slope", "--data=test_any_module.Line", "--max_epochs=1")
    assert lines[:2] == ["data    Line", "model   Slope, 2 parameters"]


def test_a_long_line_is_wrapped_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_line("data", "two words, and some more words")
    assert capsys.readouterr().out == "data    two words, and some more words\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_line("data", "two words, and some more words")
    assert capsys.readouterr().out == "data    two words, and some\n        more words\n"
