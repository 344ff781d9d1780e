"""The locations of artifacts after their folder was moved, copied or mounted."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import made_once
from mlflow import MlflowClient
from servers import serving

from project.engine.compat import MLFLOW_LOCATIONS
from project.engine.tracking import experiments, store
from project.engine.tracking.logger import MLflowLogger


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the project has made the default store."""

    def connect(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            store.connect()

    return made_once(tmp_path_factory, "connected", connect)[0]


@pytest.fixture
def home(connected: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with the default store and a finished run, and change to it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder = workplace / "project"
    shutil.copytree(connected, folder)
    monkeypatch.chdir(folder)
    logged("first")
    return folder


def logged(text: str) -> str:
    """Log a run with an artifact, and return its id."""
    logger = MLflowLogger("digits", "run")
    logger.start(store.connect(), {})
    logger.log_text(text, store.CONFIG_FILE)
    logger.end("FINISHED")
    return str(logger.version)


def locations(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as connection:
        found = [connection.execute(f"SELECT {column} FROM {table}").fetchall() for table, column in MLFLOW_LOCATIONS]
    return {location for rows in found for (location,) in rows if location}


@pytest.mark.parametrize("how", [shutil.move, pytest.param(shutil.copytree, marks=pytest.mark.faults)])
def test_runs_of_a_moved_or_copied_folder_have_their_artifacts_in_it(
    how: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = home.with_name("else where")
    before = {path: path.read_bytes() for path in home.rglob("artifacts/*") if path.is_file()}
    assert callable(how)
    how(home, elsewhere)
    monkeypatch.chdir(elsewhere)
    client = store.connect()
    (first,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert experiments.settings_of(first.info.run_id) == "first"
    second = logged("second")
    assert all(str(elsewhere) in location or elsewhere.as_uri() in location for location in locations(elsewhere))
    assert (elsewhere / "mlruns/artifacts/digits" / second / "artifacts" / store.CONFIG_FILE).read_text() == "second"
    if how is shutil.move:
        assert not home.exists()
    else:
        assert {path: path.read_bytes() for path in home.rglob("artifacts/*") if path.is_file()} == before
        assert len(list(home.glob("mlruns/artifacts/digits/*"))) == 1


def test_a_folder_that_is_mounted_at_two_paths_gets_the_files_of_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command on the host changes the locations while a run in a container lasts."""
    logger = MLflowLogger("digits", "run")
    logger.start(store.connect(), {})
    with closing(sqlite3.connect("mlruns/mlflow.db")) as connection, connection:
        for table, column in MLFLOW_LOCATIONS:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, '/of-the-host')", (str(home),))
    assert any("/of-the-host/" in location for location in locations(home))
    store.follow_folder()
    logger.log_text("late", "late.txt")
    logger.end("FINISHED")
    assert (home / "mlruns/artifacts/digits" / str(logger.version) / "artifacts/late.txt").exists()
    assert not Path("/of-the-host").exists()


def test_locations_outside_of_earlier_paths_are_not_changed(home: Path) -> None:
    client = store.connect()
    other = home / "other/mlruns/artifacts/chosen"
    other.mkdir(parents=True)
    client.create_experiment("chosen", other.as_uri())
    client.create_experiment("far", "s3://bucket/mlruns/artifacts/far")
    store.connect()
    assert {other.as_uri(), "s3://bucket/mlruns/artifacts/far"} <= locations(home)


@pytest.mark.faults
def test_the_ui_of_a_moved_folder_shows_its_artifacts(home: Path) -> None:
    moved = home.rename(home.with_name("moved"))
    (run,) = MlflowClient(f"sqlite:///{moved}/mlruns/mlflow.db").search_runs(["1"])
    with serving("project.ui", folder=moved) as ui:
        page = f"{ui.uri}/get-artifact?path={store.CONFIG_FILE}&run_uuid={run.info.run_id}"
        with urlopen(page, timeout=60) as message:
            assert message.read() == b"first"


@pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "日本 ü", "a?b"])
def test_a_folder_with_special_characters_in_its_name_works_or_is_refused(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlruns")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "?" in name or "%" in name:
        with pytest.raises(ValueError, match=r"rename it"):
            store.connect()
    else:
        run_id = logged("text")
        assert (folder / "mlruns/artifacts/digits" / run_id / "artifacts" / store.CONFIG_FILE).exists()
        assert store.connect().get_run(run_id).info.status == "FINISHED"
    assert [path.name for path in tmp_path.iterdir()] == [name]
