"""The start of a run by MLflowLogger, if it is interrupted or fails."""

from pathlib import Path

import pytest
from mlflow.entities import Run

from project.engine.tracking import logger, store
from project.engine.tracking.logger import MLflowLogger


def only_run() -> Run:
    client = store.connect()
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return run


@pytest.mark.parametrize(("error", "status"), [(SystemExit(130), "KILLED"), (OSError("no space"), "FAILED")])
def test_a_run_that_ends_while_it_starts_is_closed(
    error: BaseException, status: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(folder: Path) -> None:
        raise error

    monkeypatch.setattr(logger, "Spool", end)
    with pytest.raises(type(error)):
        MLflowLogger("digits", "run").start(store.connect(), {}, monitor="val/loss")
    assert only_run().info.status == status


def test_a_hyper_parameter_changes_no_setting_of_its_name(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = MLflowLogger("digits", "run")
    run.start(store.connect(), {})
    run.log_hyperparams({"model": "package.Module"})
    run.log_hyperparams({"model": "resnet18", "lr": 0.1})
    run.end("FINISHED")
    assert only_run().data.params == {"model": "package.Module", "lr": "0.1"}
    assert not caplog.text


def test_a_metric_whose_name_mlflow_refuses_gets_another_one(workplace: Path) -> None:
    run = MLflowLogger("digits", "run")
    run.start(store.connect(), {}, monitor="val/accuracy@5")
    run.end("FINISHED")
    assert only_run().info.status == "FINISHED"
    assert "best/val/accuracy-5" in only_run().data.metrics
