"""The texts of jsonargparse that `explain` matches, as its installed version writes them."""

import re
from argparse import ArgumentError
from pathlib import Path
from typing import Literal

import pytest
from torch import nn

from project.engine.cli.command_line import CommandLine
from project.engine.cli.explain import ANSWERS, innermost
from project.engine.runtime.process import configure_process
from project.engine.training.callbacks import build_fit

# For each entry of ANSWERS, in its order, a command line that reaches it, and the line that the user reads.
LINES = [
    ("--model.lr_schedule=LRScheduler", "--model.lr_schedule: LRScheduler cannot be used, as it is the base class of "
     "all schedules"),
    ("--trainer.max_epoch=3", "unknown option --trainer.max_epoch; did you mean --trainer.max_epochs?"),
    ("--model.net.dropot=0.3", "unknown option --model.net.dropot; did you mean --model.net.dropout?"),
    ("--config=misspelt.yaml", "misspelt.yaml: unknown option --trainer.max_epoch; did you mean --trainer.max_epochs?"),
    ("--model.lr_schedule=ReduceLROnPlateau", "--model.lr_schedule: ReduceLROnPlateau cannot be used, as it follows a "
     "metric, but schedules follow the step here"),
    ("--model.lr_schedule=ExponentialLR", "--model.lr_schedule: got 'ExponentialLR', which needs a value for "
     "--model.lr_schedule.gamma"),
    ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks: got 'EarlyStopping', which needs a value for "
     "--trainer.callbacks.monitor"),
    ("--model.optimizer=torch.nn.Linear", "--model.optimizer: got 'torch.nn.Linear'; expected Optimizer: its class, or "
     "a function that returns one"),
    ("--model.net=nope.Net", "--model.net: got 'nope.Net', but there is no module named 'nope'"),
    ("--model.net=test_explain.Net --model.net.norm=group", "--model.net.norm: got 'group'; expected one of 'batch', "
     "'layer'"),
    ("--model.net.widths=[8,8", "--model.net.widths: got '[8,8'; expected a list, such as [8,8]"),
    ("--model.net.kernel_size=wide", "--model.net.kernel_size: got 'wide'; expected int"),
    ("--data.image_size=abc", "--data.image_size: got 'abc'; expected one of int, null"),
    ("--model.optimizer=Adamm", "--model.optimizer: got 'Adamm' (did you mean Adam?), which is neither a class known "
     "here nor the path of one, such as torch.optim.SGD"),
]  # fmt: skip


class Net(nn.Module):
    """A net with an argument whose values are listed."""

    def __init__(
        self, num_classes: int, in_channels: int, image_size: int, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("entry", "argv", "line"), [(i, *one) for i, one in enumerate(LINES)], ids=lambda one: str(one)
)
def test_each_text_of_jsonargparse_is_explained_by_its_entry(entry: int, argv: str, line: str, workplace: Path) -> None:
    Path("misspelt.yaml").write_text("trainer:\n  max_epoch: 3\n")
    configure_process()
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$") as refused:
        build_fit(CommandLine.parse(argv.split()))
    assert isinstance(refused.value.__cause__, ArgumentError)
    text = innermost(str(refused.value.__cause__))
    assert next(i for i, (pattern, _) in enumerate(ANSWERS) if re.search(pattern, text, re.DOTALL)) == entry, text


def test_no_entry_is_unused() -> None:
    assert len(LINES) == len(ANSWERS)


class Old:
    """A class as those that import pytorch_lightning."""

    __module__ = "pytorch_lightning.core.module"


def test_a_class_of_the_other_package_of_lightning_is_named(workplace: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--model: test_explain\.Old derives from a class of pytorch_lightning; import"
    ):
        build_fit(CommandLine.parse(["--model=test_explain.Old"]))


@pytest.mark.parametrize(
    ("argv", "question"),
    [
        ("--trainer.callbacks=EarlyStoping", "'EarlyStoping' (did you mean EarlyStopping?)"),
        ("--trainer.callbacks.help=EarlyStoping", "'EarlyStoping' (did you mean EarlyStopping?)"),
        ("--model.optimizer.help=torch.optim.SGDD", "'torch.optim.SGDD' (did you mean SGD?)"),
        ("--config=list.yaml", "'EarlyStoping' (did you mean EarlyStopping?)"),
        ("--model.optimizer=torch.optim.Adamm", "'torch.optim.Adamm' (did you mean Adam?)"),
        ("--model.optimizer=torch.optm.Adam", "'torch.optm.Adam' (did you mean optim?)"),
    ],
)
def test_the_nearest_class_or_module_is_named(argv: str, question: str, workplace: Path) -> None:
    Path("list.yaml").write_text("trainer: {callbacks: [{class_path: EarlyStoping}]}")
    configure_process()
    option = "--trainer.callbacks" if argv.startswith("--config") else argv.partition("=")[0]
    with pytest.raises(ValueError, match=f"{option}: got {re.escape(question)}"):
        build_fit(CommandLine.parse([argv]))
