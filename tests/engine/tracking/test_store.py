"""The store and the experiment of a command, and the messages about a store that cannot be used."""

import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic, sleep

import mlflow
import optuna
import pytest
from conftest import Fit
from mlflow import MlflowClient

from project import ui
from project.engine.runtime.process import configure_process
from project.engine.tracking import experiments, store
from project.engine.tracking.logger import MLflowLogger
from project.engine.training.stop import Interrupted


def change_schema(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def drop_a_table(database: Path) -> None:
    change_schema(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE latest_metrics")


@pytest.mark.parametrize("change", [change_schema, drop_a_table])
def test_the_message_about_a_database_of_another_version_has_the_remedy(
    change: object, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert callable(change)
    change(Path("mlruns/mlflow.db"))
    with pytest.raises(OSError, match=f"keep a copy of it, then run: mlflow db upgrade {store.tracking_uri()};"):
        store.connect()


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("postgresql+other://h/db", "Can't load plugin: sqlalchemy.dialects:postgresql.other"),
        ("mssql://h/db", "No module named 'pyodbc'"),
        ("other://h", "Supported URI schemes"),
    ],
)
def test_the_message_about_a_store_that_cannot_be_opened_has_the_remedy(
    uri: str, remedy: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(OSError, match=remedy):
        store.connect()


def test_a_run_of_a_module_ends_as_its_block(workplace: Path) -> None:
    ends = {"FAILED": RuntimeError(), "KILLED": Interrupted(signal.SIGINT), "FINISHED": None}
    for name, error in {**ends, "FAILED 1": SystemExit(1), "KILLED 143": Interrupted(signal.SIGTERM)}.items():
        with suppress(RuntimeError, SystemExit), store.for_own_runs():
            mlflow.start_run(run_name=name)
            if error is not None:
                raise error
    assert {run.info.run_name.split()[0] == run.info.status for run in Fit(workplace, 0, "").runs} == {True}


def test_the_database_of_another_program_is_not_changed(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.create_study(storage="sqlite:///mlruns/optuna.db")
    before = Path("mlruns/optuna.db").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/optuna.db")
    with pytest.raises(ValueError, match="a database of another program"):
        store.connect()
    assert Path("mlruns/optuna.db").read_bytes() == before


def test_a_database_whose_uri_has_options_is_found(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{store.tracking_uri()}?timeout=60")
    assert store.connect_existing("latest").search_experiments()


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("http://127.0.0.1:1", "no MLflow store responds at http://127.0.0.1:1"),
        ("https://me:secret@127.0.0.1:1", "no MLflow store responds at https://me:***@127.0.0.1:1"),
        ("databricks", "in the Databricks workspace"),
    ],
)
def test_the_message_about_a_server_without_an_answer_is_one_line(
    uri: str, where: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit, match="2"):
        ui.main(["--port", "0"])
    error = capsys.readouterr().err
    assert where in error
    assert error.count("\n") == 1


def test_a_chosen_experiment_overrides_that_of_the_environment(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiments.experiment_id(store.connect(), "/Users/me/numbered")
    assert (
        store.connect().get_experiment(made).artifact_location
        == f"{workplace.as_uri()}/mlruns/artifacts/-Users-me-numbered"
    )
    assert experiments.experiment_name(None, "digits") == "digits"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made)
    assert experiments.experiment_name(None, "digits") == "/Users/me/numbered"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named")
    assert experiments.experiment_name(None, "digits") == "named"
    assert experiments.experiment_name("chosen", "digits") == "chosen"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "12345")
    with pytest.raises(ValueError, match="MLFLOW_EXPERIMENT_ID: got 12345"):
        experiments.experiment_name(None, "digits")


def test_a_long_description_of_an_experiment_is_shortened(workplace: Path) -> None:
    client = store.connect()
    experiment = experiments.experiment_id(client, "digits")
    experiments.describe_experiment(client, experiment, "word " * 5000)
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "word " * 4000


def test_an_outage_of_the_store_is_one_line_and_so_is_its_end(
    workplace: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def rename(table: str, to: str) -> None:  # Without it, requests fail like those to a locked database, but sooner.
        with closing(sqlite3.connect("mlruns/mlflow.db", timeout=30)) as connection, connection:
            connection.execute(f"ALTER TABLE {table} RENAME TO {to}")

    configure_process()
    client, logger = MlflowClient(), MLflowLogger("digits", "run")
    logger.start(client, {})
    rename("tags", "lost")
    for number in range(3):
        logger.set_tags({"number": str(number)})
    deadline = monotonic() + 60
    while "takes no records" not in caplog.text and monotonic() < deadline:
        sleep(0.1)
    rename("lost", "tags")
    logger.end("FINISHED")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("project")]
    assert lines == [
        "the MLflow store takes no records (no such table: tags); training continues, and they are kept",
        "the MLflow store takes records again",
    ]
    assert capfd.readouterr().err.count("\n") <= len(lines)
    assert client.get_run(str(logger.version)).data.tags["number"] == "2"
