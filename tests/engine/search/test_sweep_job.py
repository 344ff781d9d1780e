"""A sweep that is called in this process releases all that it takes."""

import multiprocessing.resource_tracker
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from conftest import Fit
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from tiny import SERVED, TINY

from project.engine.compat import set_system_attr
from project.engine.search.driver import Driver
from project.engine.tracking import store
from project.sweep import main


def state() -> dict[str, set[Any]]:
    """Return what this process holds, without MLflow's connections to its store and its thread for telemetry."""
    files = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    return {
        "handlers": {(signum, signal.getsignal(signum)) for signum in signal.valid_signals()},
        "threads": {one.name for one in threading.enumerate() if not one.name.startswith("MLflowTelemetry")},
        "files": {file for file in files if not file.endswith(("/fd", "mlflow.db"))},
        "children": {child.pid for child in psutil.Process().children()},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_epochs", "few"], "--trainer.max_epochs: got 'few'"),
        (["--study", "other"], "name another study with --study"),  # after the study is opened
    ],
)
def test_bad_input_leaves_no_handler_thread_file_or_process(
    options: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_system_attr(optuna.create_study(storage="sqlite:///mlruns/optuna.db", study_name="other"), "settings", {})
    store.connect()
    multiprocessing.resource_tracker.ensure_running()  # one for all uses of multiprocessing in this process
    before = state()
    with pytest.raises(SystemExit, match="2"):
        main(["--search", "optimizer", *TINY, *options])
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out  # The lines about the fit follow the checks.
    left = {kind: now - before[kind] for kind, now in state().items()}
    assert not any(left.values()), left


@pytest.mark.faults
def test_a_model_cannot_be_registered_if_all_trials_are_pruned(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := Path("configs/search/pruned.yaml")).parent.mkdir(parents=True)
    file.write_text(
        "metric: val/accuracy\ndirection: maximize\npruner: {type: ThresholdPruner, lower: 2}\n"
        "space:\n  model.optimizer.lr: {type: float, low: 0.01, high: 0.1}\n"
    )
    with pytest.raises(SystemExit, match="1"):
        main(["--search", "pruned", "--n_trials=1", "--register=mine", *SERVED, "--max_epochs=5000"])
    assert "--register: no trial is complete" in capsys.readouterr().err


@pytest.mark.faults
def test_a_setting_that_is_edited_during_a_sweep_is_that_of_no_trial(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Path("configs/experiment/edited.yaml"), Path("own.yaml")]
    files[0].parent.mkdir(parents=True)
    files[0].write_text("trainer: {max_epochs: 1}\n")
    files[1].write_text("trainer: {limit_train_batches: 2}\n")
    start_trials = Driver.run

    def edit_first(driver: Driver, show: Callable[[], None]) -> None:
        for file in files:
            file.write_text("trainer: {max_epochs: 2, limit_train_batches: 1}\n")
        start_trials(driver, show)

    monkeypatch.setattr(Driver, "run", edit_first)
    with pytest.raises(SystemExit, match="0"):
        main(["--search", "optimizer", "--n_trials=1", "--experiment=edited", "--config=own.yaml", *TINY])
    (trial,) = [run for run in Fit(workplace, 0, "").runs if MLFLOW_PARENT_RUN_ID in run.data.tags]
    assert {name: trial.data.params[f"trainer.{name}"] for name in ("max_epochs", "limit_train_batches")} == {
        "max_epochs": "1",
        "limit_train_batches": "2",
    }
    assert optuna.get_all_study_names("sqlite:///mlruns/optuna.db") == ["edited-TinyNet-optimizer"]
