"""The validations that a trial reports."""

from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_any_module import Slope
from tiny import TINY
from torch import Tensor

from project.engine.search.messages import Report
from project.engine.search.moment import metrics_of_run
from project.engine.search.reporter import Reporter
from project.fit import main


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
    ("options", "count"),
    [
        (["--max_epochs=2"], 2),
        (["--trainer.max_steps=2", "--trainer.val_check_interval=3"], 1),  # The last step is validated, too.
        (["--max_epochs=3", "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"], 4),
    ],
)
def test_each_validation_is_reported_once(options: Sequence[str], count: int, workplace: Path) -> None:
    ours, theirs = Pipe()
    main([*TINY, "--trainer.logger=false", *options], [Reporter(theirs, ["val/loss"])])
    assert len(reports(ours)) == count


def test_a_fit_without_validation_reports_its_epochs_and_ends_with_the_last_one(workplace: Path) -> None:
    ours, theirs = Pipe()
    reporter = Reporter(theirs, ["train_loss"])
    main(["--model=test_reporter.Unvalidated", "--data=test_any_module.Line", "--max_epochs=2"], [reporter])
    _, second = reports(ours)
    assert reporter.values() == [second.value]
    (run,) = MlflowClient().search_runs(["1"])
    name = "train_loss_epoch"
    assert metrics_of_run(MlflowClient(), run.info.run_id, [name]) == {name: pytest.approx(second.value)}
