"""The validations that a trial reports, each with its number."""

from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from test_any_module import Slope
from tiny import TINY, Tiny
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from project.engine.search.messages import Report
from project.engine.search.moment import metrics_of_run
from project.engine.search.reporter import Reporter
from project.fit import main


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images, whose number a loader does not know."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.rand(16, 1, 8, 8), torch.arange(16) % 2, strict=True)


class Streamed(Tiny):
    def train_dataloader(self) -> DataLoader[Any]:  # type: ignore[override]
        return DataLoader(Stream(), 4)


class Unvalidated(Slope):
    """A module without validation, whose loss has two names in MLflow."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = (self.linear(x) - y).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss


def reports(connection: Connection) -> list[Report]:
    received = []
    while connection.poll():
        received.append(connection.recv())
    return [message for message in received if isinstance(message, Report)]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--max_epochs=2"], [0, 1]),
        (["--max_epochs=2", "--trainer.val_check_interval=2"], [0, 1, 2, 3]),
        (["--trainer.max_steps=2", "--trainer.val_check_interval=3"], [0]),  # The last step is validated, too.
        (["--max_epochs=3", "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"], [0, 1, 2, 3]),
        (["--data=test_reporter.Streamed", "--trainer.max_steps=8", "--trainer.val_check_interval=2"], [0, 1, 2, 3]),
    ],
)
def test_each_validation_has_the_next_number(options: Sequence[str], numbers: list[int], workplace: Path) -> None:
    ours, theirs = Pipe()
    main([*TINY, "--trainer.logger=false", *options], [Reporter(theirs, ["val/loss"])])
    assert [report.step for report in reports(ours)] == numbers


def test_a_fit_without_validation_reports_its_epochs_and_ends_with_the_last_one(workplace: Path) -> None:
    ours, theirs = Pipe()
    reporter = Reporter(theirs, ["train_loss"])
    main(["--model=test_reporter.Unvalidated", "--data=test_any_module.Line", "--max_epochs=2"], [reporter])
    first, second = reports(ours)
    assert (first.step, second.step) == (0, 1)
    assert reporter.values() == [second.value]
    (run,) = MlflowClient().search_runs(["1"])
    name = "train_loss_epoch"
    assert metrics_of_run(MlflowClient(), run.info.run_id, [name]) == {name: pytest.approx(second.value)}
