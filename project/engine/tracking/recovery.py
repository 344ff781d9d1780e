"""Recovery of runs whose process died: close them as KILLED, deliver their records, remove unfinished checkpoints."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from socket import gethostname
from time import monotonic, time

from filelock import Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from project.engine.tracking import experiments, store
from project.engine.tracking.delivery import StoreUnavailableError, deliver
from project.engine.tracking.owner import HOST, state
from project.engine.tracking.spool import LANES, LOG, Spool, remove_delivered

RECOVERED = "PROJECT_RECOVERED"
"""Set in the environment of processes whose parent has called `recover_all`."""

_SHORT_WAIT_S = 5.0
_LONGEST_WAIT_S = 5.0

_log = logging.getLogger(__name__)


def dead_spools() -> Iterator[Spool]:
    """Open, one by one, the spools that no process writes any more; skip a spool that may still be written."""
    for folder in sorted(store.spool_folder("").glob("[!.]*/")):
        try:
            spool = Spool(folder, new=False)
        except (Timeout, FileNotFoundError):  # Its process is alive, or has just ended.
            continue
        except PermissionError as error:
            _log.warning("%s is left to its user: %s", folder, error)
            continue
        yield spool


def recover(client: MlflowClient, spool: Spool, lanes: Iterable[str] = LANES, deadline: float = inf) -> str:
    """Deliver a dead run; close it as KILLED if it has no status.

    Args:
        client: The store.
        spool: Spool of the run; it is closed at the end.
        lanes: Kinds of records to deliver.
        deadline: Time of `time.monotonic` after which no request is started, in seconds.

    Returns:
        Reason why the store does not take the records; empty if it has these lanes. With a reason, the spool is kept.
    """
    for unfinished in store.checkpoint_folder(spool.run_id).glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)
    _close_as(spool, "KILLED")
    trouble = ""
    try:
        for _ in deliver(spool, client, lanes):
            if monotonic() > deadline:
                break
    except StoreUnavailableError as error:
        trouble = str(error)
    spool.close(remove=not spool.waiting)
    return trouble


def _close_as(spool: Spool, status: str) -> None:
    """Add a status if the run has none. A process that has recorded nothing has not changed the run that it resumed."""
    last = spool.last_record()
    if last is not None and last.get("status", "RUNNING") == "RUNNING":
        last_written_s = min((spool.folder / LOG).stat().st_mtime, time())
        spool.append({"status": status, "time_ms": int(last_written_s * 1000)})


def recover_all(client: MlflowClient, within_s: float = _LONGEST_WAIT_S) -> None:
    """Close dead runs, then deliver their records; the next command or `sync` continues what is not done in time.

    Args:
        client: The store.
        within_s: Longest wait in seconds. A request in flight then ends in the background.
    """
    deadline = monotonic() + within_s
    recovering = threading.Thread(target=_recover_until, args=(client, deadline), name="recovery", daemon=True)
    recovering.start()
    recovering.join(within_s)


def _recover_until(client: MlflowClient, deadline: float) -> None:
    remove_delivered(store.spool_folder(""))
    try:
        for lanes in (("state",), tuple(LANES)):  # A slow upload of files must not keep other runs RUNNING.
            for spool in dead_spools():
                recover(client, spool, lanes=lanes, deadline=deadline)
                if monotonic() > deadline:
                    return
            close_without_spool(client)
    except MlflowException as error:
        _log.warning("the MLflow store does not respond: %s", store.reason(error))


def close_without_spool(client: MlflowClient) -> None:
    """Close runs whose process died before it had a spool, or whose spool was removed."""
    ours = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{gethostname()}'"
    for run in experiments.newest_runs(client, ours):
        if state(run.data.tags) != "dead" or (store.spool_folder(run.info.run_id) / LOG).exists():
            continue
        now = client.get_run(run.info.run_id)  # Its process may have ended the run and itself since the search.
        if now.info.status == "RUNNING" and state(now.data.tags) == "dead":
            client.set_terminated(run.info.run_id, "KILLED")


def is_held(run_id: str, *, owner_is_gone: bool = False) -> bool:
    """Return whether a process writes the run, or may write it.

    Args:
        run_id: The run.
        owner_is_gone: Whether the process that wrote it is known to have ended, so that a free lock is enough.
    """
    folder = store.spool_folder(run_id)
    try:
        # Another process may hold it briefly to deliver it.
        Spool(folder, new=False, wait_s=_SHORT_WAIT_S, owner_is_gone=owner_is_gone).close(remove=False)
    except (FileNotFoundError, Timeout) as error:
        return isinstance(error, Timeout)
    return False


def recover_run(run_id: str, status: str, reason: str) -> None:
    """Close a run whose process has just died, unless the process is alive or has finished the run."""
    try:
        # Another command may be delivering it as KILLED, because it does not know the reason.
        spool = Spool(store.spool_folder(run_id), new=False, wait_s=_SHORT_WAIT_S)
    except Timeout:
        return
    except FileNotFoundError:
        with suppress(OSError, MlflowException):
            client = store.connect()
            if client.get_run(run_id).info.status != "FINISHED":
                client.set_tag(run_id, "error", reason)
                client.set_terminated(run_id, status)
        return
    if (spool.last_record() or {}).get("status") != "FINISHED":
        spool.append({"tags": {"error": reason}})
        _close_as(spool, status)
    try:
        client = store.connect()
    except OSError:  # The store is unavailable too: the next command or `sync` delivers.
        spool.close(remove=False)
    else:
        recover(client, spool)


def tag_ended_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run whose process has ended. If the store does not respond, its spool keeps them.

    Raises:
        MlflowException: The store does not respond, and the run has no spool.
    """
    try:
        spool = Spool(store.spool_folder(run_id), new=False, wait_s=_SHORT_WAIT_S)
    except (FileNotFoundError, Timeout):  # The store has all its records, or another process delivers them.
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        return
    last = spool.last_record() or {}
    spool.append({"tags": dict(tags)})
    if "status" in last:
        spool.append(last)  # The status of an ended run is its last record.
    recover(client, spool)
