"""The database of a study: with tables of another version, locked, and without tables."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from tiny import TINY

from project.engine.search.storage import StorageUnavailableError, is_temporary, open_storage
from project.sweep import main


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("v2.6.0.a", "optuna storage upgrade"),
        pytest.param("v99", "try updating optuna to the latest version", marks=pytest.mark.faults),
    ],
)
def test_tables_of_another_version_are_refused_with_the_remedy(
    version: str, remedy: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_storage("sqlite:///mlruns/optuna.db"):
        pass
    with sqlite3.connect("mlruns/optuna.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    with pytest.raises(SystemExit, match="2"):
        main(["--search", "optimizer", *TINY])
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "--storage: cannot open sqlite:///mlruns/optuna.db" in error and remedy in error


def test_a_call_waits_for_a_locked_database(tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    storage = stack.enter_context(open_storage(f"sqlite:///{tmp_path}/optuna.db"))
    locked = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN EXCLUSIVE")
    threading.Timer(2, locked.execute, ["COMMIT"]).start()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "project"):
        study = storage.create_new_study([], "s")
    assert time.monotonic() - began >= 1.9
    assert storage.get_study_id_from_name("s") == study
    assert ["is locked" in record.message or "again" in record.message for record in caplog.records] == [True, True]


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (sqlalchemy.exc.OperationalError("SELECT 1", {}, OSError("server closed the connection")), True),
        (sqlalchemy.exc.InterfaceError("SELECT 1", {}, OSError("connection already closed")), True),
        (sqlalchemy.exc.ProgrammingError("SELECT 1", {}, ValueError("no such column")), False),
        (sqlalchemy.exc.IntegrityError("INSERT", {}, ValueError("twice")), False),
    ],
)
def test_a_lost_connection_is_temporary_and_a_wrong_statement_is_not(error: Exception, temporary: bool) -> None:
    assert is_temporary(error) == temporary
    wrapped = StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = error
    assert is_temporary(wrapped) == temporary


def test_a_call_does_not_wait_for_a_database_without_its_tables(tmp_path: Path, stack: ExitStack) -> None:
    storage = stack.enter_context(open_storage(f"sqlite:///{tmp_path}/optuna.db"))
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("DROP TABLE studies")
    with pytest.raises(StorageInternalError):
        storage.get_all_studies()


def test_a_stopping_sweep_does_not_wait_for_a_locked_database(tmp_path: Path, stack: ExitStack) -> None:
    storage = stack.enter_context(open_storage(f"sqlite:///{tmp_path}/optuna.db"))
    storage.is_stopping = lambda: True
    with sqlite3.connect(tmp_path / "optuna.db") as locked:
        locked.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageUnavailableError, match="database is locked"):
            storage.get_all_studies()
