"""The parser is shared by all command lines of a process, which do not change each other."""

from pathlib import Path

import pytest
from tiny import TINY

from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI, flatten
from project.engine.training.callbacks import build_fit


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


def test_a_file_of_the_user_is_read_for_each_command_line(workplace: Path) -> None:
    file = Path("configs", "data", "mine.yaml")
    file.parent.mkdir(parents=True)
    for size in (7, 8):
        file.write_text(f"data:\n  class_path: project.data.Digits\n  init_args:\n    batch_size: {size}\n")
        assert built("--data=mine").datamodule.batch_size == size
