"""Delivery from the spool to the store: in order, in batches, repeated if needed.

Replaying a record changes nothing: metrics keep their first timestamps, by which the store identifies them.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import inf
from time import monotonic, thread_time

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from project.engine.tracking.model_delivery import send_model
from project.engine.tracking.names import metric_name
from project.engine.tracking.record_log import Record
from project.engine.tracking.spool import LANES, Spool
from project.engine.tracking.store import follow_folder, long_timeout, reason

_METRICS_PER_BATCH = 1000
_POLL_EVERY_S = 1.0
_SHARE_OF_TIME = 0.005
_LONGEST_CHARGE_FOR_A_SERVER_S = 0.1
_RETRY_EVERY_S = 5.0
_SHOW_EVERY_S = 0.1
# Other errors of MLflow may be temporary: an overloaded server, a wrong password, another store at this address.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")

_log = logging.getLogger(__name__)


class StoreUnavailableError(Exception):
    """Failure of the store to take a record now; it may take it later."""


def deliver(spool: Spool, client: MlflowClient, lanes: Iterable[str] = LANES) -> Iterator[float]:
    """Send the records that the store lacks; yield the seconds that training may have lost in each request.

    A record that the store refuses permanently is reported and skipped, so that it does not block later records.

    Raises:
        StoreUnavailableError: The store takes no records now. Delivered records are marked.
    """
    trouble: list[Exception] = []
    for lane in lanes:
        try:
            yield from _deliver_lane(spool, client, lane)
        except Exception as error:  # noqa: BLE001  # Artifact stores raise errors of their own libraries.
            trouble.append(error)
            yield 0.0
    if trouble:
        raise StoreUnavailableError(reason(trouble[0])) from trouble[0]


def _deliver_lane(spool: Spool, client: MlflowClient, lane: str) -> Iterator[float]:
    began, worked = monotonic(), thread_time()
    for records, offset in _batches(spool, lane):
        if records:
            _send(spool, client, records)
        spool.mark_delivered(lane, offset)
        # Charge our CPU time and the server's, which may share this machine; cap it, since a slow server may be remote.
        yield max(thread_time() - worked, min(monotonic() - began, _LONGEST_CHARGE_FOR_A_SERVER_S))
        began, worked = monotonic(), thread_time()


def _batches(spool: Spool, lane: str) -> Iterator[tuple[list[Record], int]]:
    """Group consecutive metrics; any other record is a batch of its own."""
    batch: list[Record] = []
    count, end = 0, 0
    for record, offset in spool.undelivered(lane):
        if record is not None:
            # The number of metrics; any other record fills a batch.
            size = len(record["metrics"]) if "metrics" in record else _METRICS_PER_BATCH
            if batch and count + size > _METRICS_PER_BATCH:
                yield batch, end
                batch, count = [], 0
            batch.append(record)
            count += size
        end = offset
    if end:
        yield batch, end


def _send(spool: Spool, client: MlflowClient, records: list[Record]) -> None:
    try:
        _send_whole(spool, client, records)
    except MlflowException as error:
        if error.error_code not in _REFUSALS:
            raise
        if parts := _halves(records):
            # One of them caused the refusal, for example by a name that MLflow does not accept.
            for part in parts:
                _send(spool, client, part)
        else:
            _warn_once(f"the store refuses part of run {spool.run_id}: {str(error).splitlines()[0]}")


def _halves(records: list[Record]) -> list[list[Record]]:
    """Split metrics, parameters or tags in two; return nothing for a single one, or for a record of another kind."""
    kind = next(iter(records[0]))
    if kind not in ("metrics", "params", "tags"):
        return []
    single = [record | {kind: {key: value}} for record in records for key, value in record[kind].items()]
    middle = len(single) // 2
    return [single[:middle], single[middle:]] if middle else []


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def _send_whole(spool: Spool, client: MlflowClient, records: list[Record]) -> None:
    run_id, record = spool.run_id, records[0]
    match next(iter(record)):
        case "metrics":
            metrics = [
                Metric(metric_name(key), value, one["time_ms"], one["step"])
                for one in records
                for key, value in one["metrics"].items()
            ]
            client.log_batch(run_id, metrics=metrics, synchronous=True)
        case "params":
            params = [Param(key, value) for one in records for key, value in one["params"].items()]
            client.log_batch(run_id, params=params, synchronous=True)
        case "tags":
            tags = [RunTag(key, value) for one in records for key, value in one["tags"].items()]
            client.log_batch(run_id, tags=tags, synchronous=True)
        case "file" | "model" as kind if not (spool.files / record[kind]).exists():
            _warn_once(f"{spool.files / record[kind]} does not exist, so run {run_id} lacks it")
        case "file":
            folder = record["file"].rpartition("/")[0]
            client.get_run(run_id)  # An unreachable store raises here within seconds.
            follow_folder()
            with long_timeout():
                client.log_artifact(run_id, str(spool.files / record["file"]), folder or None)
        case "dataset":
            dataset = Dataset(**record["dataset"])
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        case "model":
            follow_folder()
            for _ in _deliver_lane(spool, client, "metrics"):
                pass  # The model shows the run's scores, which may have been logged after their lane was delivered.
            send_model(client, run_id, spool.files / record["model"], record.get("tags", {}), record.get("dataset"))
        case "status" if record["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        case "status":
            client.set_terminated(run_id, record["status"], end_time=record["time_ms"])


class Courier(threading.Thread):
    """Thread that delivers in a small share of the time while the run continues, and the rest at its end.

    `trouble` is the reason why the store does not take records now; empty if it does.
    """

    def __init__(self, spool: Spool, client: MlflowClient) -> None:
        super().__init__(name="courier", daemon=True)
        self._spool, self._client = spool, client
        self._draining, self._given_up = threading.Event(), threading.Event()
        self._delivering = threading.Lock()
        self.trouble = ""
        self._has_told = False

    def run(self) -> None:
        """Deliver until `drain` is called and everything is delivered."""
        while not self._draining.wait(_RETRY_EVERY_S if self.trouble else _POLL_EVERY_S):
            self._deliver()
        self._deliver()

    def deliver_now(self) -> None:
        """Deliver what the store takes, without pauses, before returning; for a courier that is not started."""
        with self._delivering:  # Training and the measurements of the system log in two threads.
            self._deliver(pauses=False)

    def _deliver(self, *, pauses: bool = True) -> None:
        try:
            for seconds in deliver(self._spool, self._client):
                if pauses:
                    self._draining.wait(seconds / _SHARE_OF_TIME)
                if self._given_up.is_set():
                    return
            self._report("")
        except StoreUnavailableError as error:
            self._report(str(error))

    def _report(self, trouble: str) -> None:
        """Print a line when the store stops taking records, and when it takes them again."""
        self.trouble = trouble
        if trouble and not self._has_told and not self._draining.is_set():  # The end of the run has its own report.
            _log.warning("the MLflow store takes no records (%s); training continues, and they are kept", trouble)
            self._has_told = True
        elif self._has_told and not trouble:
            _log.warning("the MLflow store takes records again")
            self._has_told = False

    def drain(self, progress: Callable[[float], None], within_s: float = inf) -> bool:
        """Wait while the rest is delivered without pauses.

        Args:
            progress: Called with the share that is delivered, in [0, 1].
            within_s: Longest wait in seconds.

        Returns:
            True if delivery finished or the store refused the rest; False if a request is still in flight.
        """
        self._spool.beat()
        waiting, deadline = max(1, self._spool.waiting), monotonic() + within_s
        self._draining.set()
        if self.ident is None:  # A signal arrived before it was started.
            self.start()
        while self.is_alive() and monotonic() < deadline:
            self._spool.beat()
            self.join(_SHOW_EVERY_S)
            progress(1 - self._spool.waiting / waiting)
        self._given_up.set()
        return not self.is_alive()
