"""The database of a study: opening it, and waiting while it does not respond."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import sleep
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from project.engine.compat import cached_storage
from project.engine.tracking import store
from project.engine.tracking.secrets import redact

T = TypeVar("T")
_TRY_AGAIN_S = 1.0
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# Faults that can end without help from this process, such as a full disk.
_TEMPORARY = (*_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)

_log = logging.getLogger(__name__)


class StorageUnavailableError(Exception):
    """Failure of the database to respond, when the sweep no longer waits for it."""


class PatientStorage:
    """An Optuna storage whose calls are repeated while its database is locked or does not respond.

    If a response is lost, the call is executed twice. Values are then written again. A second new trial has no owner,
    so that it is run like a trial of a sweep that has died.

    Args:
        storage: The storage.

    Attributes:
        is_stopping: Whether to raise `StorageUnavailableError` instead of waiting.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self.is_stopping: Callable[[], bool] = lambda: False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return partial(self._repeat, found) if callable(found) else found

    def _repeat(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return _repeat(partial(call, *args, **kwargs), is_temporary, self.is_stopping)


@contextmanager
def open_storage(url: str) -> Iterator[PatientStorage]:
    """Open the database for a block of code. Create its tables if it has none; wait for it if it is locked.

    Raises:
        ValueError: It cannot be opened, or its tables are those of another version of Optuna.
    """
    # SQLite waits in C code, where Ctrl-C has no effect: it waits for a moment, and `_repeat` for the rest.
    arguments = {"connect_args": {"timeout": _TRY_AGAIN_S}} if url.startswith("sqlite") else {}
    open_it = partial(RDBStorage, url, {"pool_pre_ping": True, **arguments})
    try:
        storage = _repeat(open_it, lambda error: _sqlite_code(error) in _LOCKED, lambda: False)
    except ImportError as error:
        raise ValueError(f"--storage: {store.needs_driver(url, error)}") from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:  # RuntimeError: of its version
        reason = redact(str(error).splitlines()[0])
        raise ValueError(f"--storage: cannot open {redact(url)} for Optuna: {reason}") from error
    try:
        yield PatientStorage(cached_storage(storage))
    finally:
        storage.engine.dispose()


def is_temporary(error: BaseException) -> bool:
    """Return whether the database may respond if the call is repeated later."""
    cause = _cause(error)
    if (code := _sqlite_code(error)) is not None:
        return code in _TEMPORARY
    lost = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return lost or isinstance(cause, OperationalError | InterfaceError | PoolTimeoutError)


def _cause(error: BaseException) -> BaseException | None:
    """Return the error of the database, which Optuna wraps in its own."""
    return error.__cause__ if isinstance(error, StorageInternalError) else error


def _sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code; None if it is another database."""
    cause = _cause(error)
    origin = cause.orig if isinstance(cause, DBAPIError) else None
    return getattr(origin, "sqlite_errorcode", 0) & 0xFF if isinstance(origin, sqlite3.Error) else None


def _repeat(
    call: Callable[[], T], may_succeed_later: Callable[[BaseException], bool], is_stopping: Callable[[], bool]
) -> T:
    waits = False
    while True:
        try:
            result = call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not may_succeed_later(error):
                raise
            reason = redact(str(_cause(error)).splitlines()[0])
            if is_stopping():
                raise StorageUnavailableError(f"the study's storage does not respond: {reason}") from error
            if not waits:
                _log.warning("the study's storage does not respond: %s; waiting for it, while trials continue", reason)
            waits = True
            sleep(_TRY_AGAIN_S)
        else:
            if waits:
                _log.warning("the study's storage responds again")
            return result
