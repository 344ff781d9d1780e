"""Runs whose process died: closed as KILLED, delivered as far as they were written, half a checkpoint removed."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import time

from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

from project.tracking import store
from project.tracking.delivery import StoreAwayError, deliver
from project.tracking.owner import HOST, state
from project.tracking.spool import Spool, remove_delivered

_A_MOMENT_S = 5.0


def dead_spools(*, of_all_hosts: bool = False) -> Iterator[Spool]:
    """Take hold, one by one, of spools that no process writes any more: this host's, or all in this folder.

    A lock of another host may not be seen here, which depends on the filesystem.
    """
    for folder in sorted(store.spool_folder("").glob("[!.]*/")):
        if not of_all_hosts and Spool.host_of(folder) != Spool.this_host():
            continue
        try:
            spool = Spool(folder, new=False)
        except (Timeout, FileNotFoundError):  # its process lives, or has just ended
            continue
        yield spool


def recover(client: MlflowClient, spool: Spool, status: str = "KILLED") -> str:
    """Deliver a dead run; give it a status where it has none.

    Returns:
        Why the store does not take it, in which case the spool stays; empty when the store has everything.
    """
    for unfinished in store.checkpoint_folder(spool.run_id).glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)
    _close_as(spool, status)
    try:
        for _ in deliver(spool, client):
            pass
    except StoreAwayError as error:
        spool.close(remove=False)
        return str(error)
    spool.close(remove=True)
    return ""


def _close_as(spool: Spool, status: str) -> None:
    last = spool.last_record()
    if last is None or "status" not in last:
        spool.append({"status": status, "time_ms": int(_last_sign_of_life(spool.folder) * 1000)})


def recover_all(client: MlflowClient) -> None:
    """Close this host's dead runs; what the store does not take now stays for the next time."""
    remove_delivered(store.spool_folder(""))
    for spool in dead_spools():
        recover(client, spool)
    close_without_spool(client)


def close_without_spool(client: MlflowClient) -> None:
    """Close runs whose process died before it had a spool, or whose spool was taken away."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    ours = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{Spool.this_host()}'"
    for run in client.search_runs(experiments, ours):
        if state(run.data.tags) != "dead" or store.spool_folder(run.info.run_id).exists():
            continue
        now = client.get_run(run.info.run_id)  # its process may have ended it, and itself, since the search
        if now.info.status == RunStatus.to_string(RunStatus.RUNNING) and state(now.data.tags) == "dead":
            client.set_terminated(run.info.run_id, "KILLED")


def is_held(run_id: str) -> bool:
    """Whether a process of this machine writes the run."""
    try:
        # Another process may hold it for a moment, to deliver it.
        Spool(store.spool_folder(run_id), new=False, wait_s=_A_MOMENT_S).close(remove=False)
    except Timeout:
        return True
    except FileNotFoundError:
        return False
    return False


def recover_run(run_id: str, status: str, reason: str) -> None:
    """Close a run whose process has died just now, unless it lives after all."""
    try:
        # Another command may be delivering it, as KILLED for want of a reason.
        spool = Spool(store.spool_folder(run_id), new=False, wait_s=_A_MOMENT_S)
    except Timeout:
        return
    except FileNotFoundError:
        with suppress(OSError, MlflowException):
            client = store.connect()
            if client.get_run(run_id).info.status != RunStatus.to_string(RunStatus.FINISHED):
                client.set_tag(run_id, "error", reason)
                client.set_terminated(run_id, status)
        return
    spool.append({"tags": {"error": reason}})
    _close_as(spool, status)
    try:
        client = store.connect()
    except OSError:  # the store is away, too: the next command, or `sync`, delivers
        spool.close(remove=False)
    else:
        recover(client, spool)


def _last_sign_of_life(folder: Path) -> float:
    log = folder / "log.jsonl"
    return log.stat().st_mtime if log.stat().st_size else time()
