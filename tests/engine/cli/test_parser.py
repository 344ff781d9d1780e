"""The parser is shared by all command lines of a process, which do not change each other."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning import LightningDataModule
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from tiny import TINY

from project.engine.cli import config_groups
from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.parser import FitParser
from project.engine.cli.settings import flatten
from project.engine.runtime.callbacks import callbacks_of
from project.engine.training.callbacks import build_fit


@dataclass
class Crop:
    size: int = 1
    pad: int = 0


class Cropped(LightningDataModule):
    def __init__(self, crop: Crop | None = None) -> None:
        super().__init__()
        self.crop = crop


class OfAPackage(CSVLogger):
    def __init__(self) -> None:
        raise ModuleNotFoundError("give me tensorboard")


def built(*options: str) -> FitCLI:
    return build_fit(CommandLine.parse([*options, "--trainer.logger=false"]))


def test_a_command_line_does_not_change_the_next(workplace: Path) -> None:
    before = built()
    callbacks = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:01:00"]
    changed = built(*TINY, "--strategy=ddp", "--devices=1", *callbacks)
    with pytest.raises(ValueError, match=r"did you mean --model\.net\.dropout"):
        built("--model.net.dropot=0.1")
    after = built()
    assert changed.parser is after.parser
    assert flatten(after.config) == flatten(before.config) != flatten(changed.config)
    assert after.default_settings == before.default_settings
    assert after.changed_settings() == {"trainer.logger": False}


@pytest.mark.faults
def test_the_files_of_the_project_are_parsed_again_only_if_they_change(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = workplace / "configs"  # The current folder is a checkout, whose files have relative paths.
    shutil.copytree(config_groups.CONFIGS, configs)
    monkeypatch.setattr(config_groups, "CONFIGS", configs)
    file, parsed, parse = configs / "data/digits.yaml", [], FitParser.parse_args

    def counting(self: FitParser, args: list[str], **options: Any) -> Namespace:
        parsed.append(args)
        return parse(self, args, **options)

    monkeypatch.setattr(FitParser, "parse_args", counting)
    before = file.read_text(encoding="utf-8")
    for size in (7, 8):
        file.write_text(before.replace("batch_size: 32", f"batch_size: {size}"), encoding="utf-8")
        assert [built().datamodule.batch_size for _ in range(3)] == [size] * 3
    defaults = [options for options in parsed if str(configs / "default.yaml") in options]
    assert len(defaults) == 2


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("configs/data/mine.yaml", "--data=mine"),
        ("configs/data/mine1.5.yaml", "--data=mine1.5"),
        ("configs/mine.yml", "--config=configs/mine.yml"),
        ("configs/mine.yaml", "--experiment=configs/mine.yaml"),
    ],
)
def test_a_file_of_the_user_is_read_for_each_command_line(path: str, option: str, workplace: Path) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True)
    for size in (7, 8):
        file.write_text(f"data:\n  class_path: project.data.Digits\n  init_args:\n    batch_size: {size}\n")
        assert built(option).datamodule.batch_size == size


def test_an_option_wins_over_files_also_over_those_that_follow(workplace: Path) -> None:
    Path("own.yaml").write_text("trainer: {max_epochs: 3}\n")
    config = flatten(
        built(
            *("--data.batch_size=8", "--devices=1", "--model.optimizer.lr=0.5", "--max_epochs=7"),
            *("--data=digits", "--strategy=ddp", "--model=cnn", "--config=own.yaml"),
        ).config
    )
    names = ("data.batch_size", "trainer.devices", "model.optimizer.lr", "trainer.max_epochs")
    assert [config[name] for name in names] == [8, "1", 0.5, 7]


@pytest.mark.parametrize("choice", ["--model=tiny.TinyTask", "--config=configs/model/mine.yaml", "--model=mine"])
def test_an_argument_that_a_chosen_class_needs_may_be_an_option(choice: str, workplace: Path) -> None:
    (file := Path("configs/model/mine.yaml")).parent.mkdir(parents=True)
    file.write_text("model: tiny.TinyTask\n")
    assert built("--data=tiny.Tiny", "--data.augmentation.crop_padding=0", choice, "--model.net=tiny.TinyNet").net_name


@pytest.mark.parametrize(
    "name", ["model.net.feature_size", "model.optimizer.foreach", "model.lr_schedule.total_steps", "data.workers.num"]
)
def test_an_option_of_a_class_may_be_null(name: str, workplace: Path) -> None:
    settings = flatten(built(f"--{name}=null").config)
    assert name in settings and settings[name] is None


def test_the_settings_of_a_run_hold_a_device(workplace: Path) -> None:
    options = [*TINY, "--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    Path("again.yaml").write_text(built(*options).settings_without_secrets())
    (averaging,) = callbacks_of(built("--config=again.yaml").trainer, StochasticWeightAveraging)
    assert vars(averaging)["_device"] == torch.device("cpu")


def test_the_settings_of_a_run_hold_an_optional_dataclass(workplace: Path) -> None:
    options = ["--model=test_any_module.Slope", "--data=test_parser.Cropped", "--data.crop.size=3"]
    Path("again.yaml").write_text(built(*options).settings_without_secrets())
    assert built("--config=again.yaml").datamodule.crop == Crop(3)
    assert built("--config=again.yaml", "--data.crop.pad=2", "--data.crop.pad=4").datamodule.crop == Crop(3, 4)
    assert built("--config=again.yaml", "--data.crop=null").datamodule.crop is None
    with pytest.raises(ValueError, match="pda"):
        built("--config=again.yaml", "--data.crop.pda=2")


@pytest.mark.parametrize("option", ["--trainer.logger", "--trainer.logger+"])
def test_a_logger_that_cannot_be_made_is_explained(option: str, workplace: Path) -> None:
    with pytest.raises(ValueError, match=r"class_path 'test_parser.OfAPackage':\s+give me tensorboard$"):
        build_fit(CommandLine.parse([f"{option}=test_parser.OfAPackage"]))
