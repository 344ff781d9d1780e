"""The MLflow store: its address, its availability, and the project's folders beside it."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from alembic.util import CommandError
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import NoSuchModuleError

from project.engine.atomic import replace_file
from project.engine.compat import mlflow_in
from project.engine.runtime.stop_signals import INTERRUPTED
from project.engine.tracking.moved import keep_locations_within
from project.engine.tracking.secrets import redact

HOME = Path("mlruns")
DATABASE = "mlflow.db"
CONFIG_FILE = "config.yaml"
_STORE = "MLFLOW_TRACKING_URI"
# MLflow reads these at each request. Its defaults are seven retries of up to two minutes.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SQLITE = "sqlite:///"
_SHORT_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", _TIMEOUT: "5"}
LONGEST_REQUEST_S = 120
_CREDENTIALS = re.compile(r"//[^/@]*@")
UI = "http://127.0.0.1:5000"
"""Where `project.ui` serves the UI if the port is free."""


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI` if it is set, otherwise a SQLite file in `mlruns/`."""
    return os.environ.get(_STORE) or f"{_SQLITE}{HOME.absolute()}/{DATABASE}"


def server_address() -> str | None:
    """Return the address of the MLflow server, which serves the UI, without credentials; None for another store."""
    uri = tracking_uri()
    return redact(_CREDENTIALS.sub("//", uri)).rstrip("/") if uri.startswith(("http://", "https://")) else None


def checkpoint_folder(run_id: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return HOME / "checkpoints" / run_id


def profile_folder(run_id: str) -> Path:
    """Return the folder of a profiler's traces."""
    return HOME / "profiles" / run_id


def spool_folder(run_id: str) -> Path:
    """Return the folder of the records that the store does not have yet."""
    return HOME / "spool" / run_id


def shown_artifact(artifact_uri: str, name: str) -> str:
    """Return the path of an artifact, relative to the current folder if it is inside, or its URI in another store."""
    uri = urlsplit(artifact_uri)
    if uri.scheme not in ("", "file"):
        return redact(f"{artifact_uri}/{name}")
    path = Path(unquote(uri.path), name)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def connect() -> MlflowClient:
    """Open the store and send a request. MLflow then gives up after seconds, unless the user has set other timeouts.

    Raises:
        OSError: The store does not respond within seconds.
    """
    uri = tracking_uri()
    if {"?", "%"} & set(str(HOME.absolute())) and not os.environ.get(_STORE):
        raise ValueError(
            f"got the folder {Path.cwd()}, whose name has a ? or %, which have another meaning in the URI of a "
            "SQLite database; rename it, or set MLFLOW_TRACKING_URI"
        )
    for name, value in _SHORT_TIMEOUTS.items():
        os.environ.setdefault(name, value)
    try:
        HOME.mkdir(exist_ok=True)
        # MLflow creates a database's tables at the first request; two processes at the same time would break them.
        lock = FileLock(HOME / ".store.lock").acquire()
    except OSError as error:
        raise OSError(
            f"cannot write in {HOME.absolute()} ({error.strerror}); start from a folder where you may write"
        ) from error
    with lock:
        _check_uri(uri)
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except (MlflowException, CommandError, ImportError, NoSuchModuleError) as error:  # ImportError: no driver
            raise OSError(_remedy(uri, error)) from error
        try:
            follow_folder()
        except sqlite3.Error as error:
            raise OSError(
                f"cannot write {HOME.absolute() / DATABASE} ({error}); check whether another program uses it"
            ) from error
    return client


def follow_folder() -> None:
    """Update the locations of artifacts in the default store if `mlruns/` was moved or copied.

    Raises:
        sqlite3.Error: The store cannot be written.
    """
    database, file = HOME.absolute() / DATABASE, _sqlite_file(tracking_uri())
    if file is not None and file.absolute() == database:
        keep_locations_within(HOME.absolute(), database)


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite database, whose URI may have options such as `?timeout=60`; None for another one."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def _remedy(uri: str, error: Exception) -> str:
    """Return the remedy for a store that does not respond."""
    if isinstance(error, CommandError) or "out-of-date database schema" in str(error):
        return (
            f"the database {redact(uri)} was created by another version than this MLflow, {mlflow.__version__}; keep a "
            f"copy of it, then run: mlflow db upgrade {redact(uri)}; if a newer MLflow created it, install that"
        )
    if isinstance(error, ImportError):
        return f"MLFLOW_TRACKING_URI: {needs_driver(uri, error)}"
    return (
        f"MLFLOW_TRACKING_URI: no MLflow store responds at {redact(uri)} ({reason(error)}); "
        "start it, or unset the variable to track in mlruns/"
    )


def needs_driver(uri: str, error: ImportError) -> str:
    """Return the remedy for a database whose driver cannot be imported."""
    return f"{redact(uri)} needs a driver that is not installed ({reason(error)}); install the package of this module"


def reason(error: BaseException) -> str:
    """Return the root cause of a store's error in one line, such as `Connection refused` of a dead server."""
    while (cause := error.__cause__ or error.__context__) is not None and not isinstance(cause, KeyError):
        error = cause
    lines = str(error).splitlines() or [repr(error)]
    return redact(lines[0][:200].rstrip("."))


def _check_uri(uri: str) -> None:
    """Check immediately what MLflow would report after minutes or too late."""
    scheme, colon, path = uri.partition(":")
    if scheme == "file" or not (colon or scheme == "databricks"):
        raise ValueError(
            f"MLFLOW_TRACKING_URI: got the folder {uri}, but MLflow no longer tracks in folders; use sqlite:///{uri}/mlflow.db"
        )
    if scheme == "sqlite":
        path = path.removeprefix("///").partition("?")[0]
        if path in ("", "//", ":memory:"):
            raise ValueError(
                f"MLFLOW_TRACKING_URI: got {uri}, which is lost when the process ends; use sqlite:///mlruns/mlflow.db"
            )
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as connection:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except (OSError, sqlite3.Error) as error:
            raise OSError(f"MLFLOW_TRACKING_URI: cannot open {path} as a SQLite database: {error}") from error
        if tables and "experiments" not in tables:  # MLflow would add its own tables to them.
            raise ValueError(
                f"MLFLOW_TRACKING_URI: got {path}, a database of another program; name a new file, or one of MLflow's"
            )
        for place in (Path(path), Path(path).parent):
            if not os.access(place, os.W_OK):
                raise OSError(
                    f"MLFLOW_TRACKING_URI: cannot write {place.absolute()}; change its permissions, or name another"
                )
        if Path(path).stat().st_size == 0:
            _create_tables(Path(path))


def _create_tables(path: Path) -> None:
    """Create a database completely or not at all; MLflow cannot repair one that a kill left half-created."""
    replace_file(
        path.absolute(),
        lambda unfinished: MlflowClient(f"sqlite:///{unfinished}").search_experiments(max_results=1),
        flush=False,
    )


def connect_existing(reference: str | None = None) -> MlflowClient:
    """Open a store that holds a run, or any run; see `connect`. A store that does not exist is not created.

    Raises:
        ValueError: The store does not exist.
        OSError: The store does not respond within seconds.
    """
    uri = tracking_uri()
    if (file := _sqlite_file(uri)) is not None and not file.exists():
        of_run = "" if reference is None else f" with a run {reference!r}"
        raise ValueError(
            f"there is no store {redact(uri)}{of_run}; start from the folder of the run, or train one: "
            "python -m project.fit"
        )
    return connect()


def long_timeout() -> AbstractContextManager[None]:
    """Allow minutes for a request, because a server does not respond before it has stored a large file."""
    return _environment(_TIMEOUT, str(max(int(os.environ.get(_TIMEOUT) or 0), LONGEST_REQUEST_S)))


def as_default() -> AbstractContextManager[None]:
    """Make this store that of MLflow's default clients, one of which a SQL store creates to register a model.

    https://github.com/mlflow/mlflow/blob/v3.0.0/mlflow/store/model_registry/sqlalchemy_store.py (create_model_version)
    """
    return _environment(_STORE, tracking_uri())


@contextmanager
def for_own_runs(folder: str | None = None) -> Iterator[None]:
    """Make this store that of MLflow's functions, and end the runs that a module starts by them in the block.

    If one stayed active, the module could not start the next one. A run gets the status of the block.

    Args:
        folder: A folder that takes the place of this store; nothing is then logged automatically.
    """
    before, status = mlflow.active_run(), "FAILED"
    with as_default() if folder is None else mlflow_in(folder):
        try:
            yield
            status = "FINISHED"
        except SystemExit as error:
            status = "KILLED" if error.code in INTERRUPTED else "FAILED"
            raise
        finally:
            with suppress(MlflowException):
                while (run := mlflow.active_run()) is not None and run is not before:
                    mlflow.end_run(status)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
