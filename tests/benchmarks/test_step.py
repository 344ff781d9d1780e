import pytest
import torch
import torch.nn.functional as F

from benchmarks.step.trainings import NETS, options_of_fit
from project.engine.cli.command_line import CommandLine
from project.engine.task import Task
from project.engine.training.callbacks import build_fit


@pytest.mark.parametrize("net", NETS)
def test_fit_computes_the_loss_of_the_hand_written_loop(net: str) -> None:
    model = build_fit(CommandLine.parse(options_of_fit(net, "cpu"))).model
    assert isinstance(model, Task)
    outputs, targets = torch.randn(8, 10), torch.arange(8)
    assert torch.equal(model.loss(outputs, model.training_targets(targets)), F.cross_entropy(outputs, targets))
