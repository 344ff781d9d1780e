"""From the spool to the store: in order, in batches, as often as needed.

Replaying a record changes nothing: metrics keep their first timestamps, by which the store knows them.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from time import monotonic

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from project.tracking.spool import Record, Spool

# A store that is gone shows as one of these; requests' errors are OSErrors.
STORE_ERRORS = (MlflowException, OSError)

_METRICS_A_BATCH = 1000
_LOOK_EVERY_S = 1.0
_SHARE_OF_TIME = 0.02
_TRY_AGAIN_S = 5.0
_REFUSALS = range(400, 500)
_PASSING = (401, 403, 408, 429)

_log = logging.getLogger(__name__)


def deliver(spool: Spool, client: MlflowClient) -> Iterator[float]:
    """Send what the store lacks, and yield the seconds that each request took.

    What the store refuses for good is reported and passed over, so that it holds up nothing behind it.

    Raises:
        MlflowException, OSError: The store does not answer. What it has is marked as delivered.
    """
    for records, offset in _batches(spool):
        start = monotonic()
        try:
            _send(spool, client, records)
        except MlflowException as error:
            status = error.get_http_status_code()
            if status not in _REFUSALS or status in _PASSING:
                raise
            _log.warning("the store refuses part of run %s: %s", spool.run_id, str(error).splitlines()[0])
        spool.mark_delivered(offset)
        yield monotonic() - start


def _batches(spool: Spool) -> Iterator[tuple[list[Record], int]]:
    """Group consecutive metrics; any other record stands alone."""
    batch: list[Record] = []
    count = behind = 0
    for record, offset in spool.undelivered():
        if batch and ("metrics" not in record or count + len(record["metrics"]) > _METRICS_A_BATCH):
            yield batch, behind
            batch, count = [], 0
        if "metrics" in record:
            batch.append(record)
            count += len(record["metrics"])
        else:
            yield [record], offset
        behind = offset
    if batch:
        yield batch, behind


def _send(spool: Spool, client: MlflowClient, records: list[Record]) -> None:
    run_id, record = spool.run_id, records[0]
    match next(iter(record)):
        case "metrics":
            metrics = [
                Metric(key, value, record["time_ms"], record["step"])
                for record in records
                for key, value in record["metrics"].items()
            ]
            client.log_batch(run_id, metrics=metrics)
        case "params":
            client.log_batch(run_id, params=[Param(key, value) for key, value in record["params"].items()])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record["tags"].items()])
        case "file":
            folder = record["file"].rpartition("/")[0]
            client.log_artifact(run_id, str(spool.files / record["file"]), folder or None)
        case "dataset":
            dataset = Dataset(**record["dataset"])
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        case "model":
            _send_model(spool, client, record["model"])
        case "model_of":
            known, models = _models_of(client, run_id), _models_of(client, record["model_of"])[-1:]
            client.log_outputs(run_id, [LoggedModelOutput(model, step=0) for model in models if model not in known])
        case "status":
            client.set_terminated(run_id, record["status"], end_time=record["time_ms"])


def _models_of(client: MlflowClient, run_id: str) -> list[str]:
    outputs = client.get_run(run_id).outputs
    return [model.model_id for model in outputs.model_outputs] if outputs else []


def _send_model(spool: Spool, client: MlflowClient, name: str) -> None:
    run = client.get_run(spool.run_id)
    folder = spool.files / name
    logged = client.create_logged_model(
        run.info.experiment_id, name=name, source_run_id=spool.run_id, params=run.data.params
    )
    description = Model.load(str(folder))
    description.run_id, description.model_id = spool.run_id, logged.model_id
    description.artifact_path = logged.artifact_location
    description.save(str(folder / MLMODEL_FILE_NAME))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    scores = [m for m in run.data._metric_objs if m.key.startswith(("val/", "test/"))]  # with their timestamps
    client.log_batch(
        spool.run_id, [Metric(m.key, m.value, m.timestamp, m.step, model_id=logged.model_id) for m in scores]
    )
    client.log_outputs(spool.run_id, [LoggedModelOutput(logged.model_id, step=0)])


class Courier(threading.Thread):
    """Delivers in the background while the run goes on, in a small share of the time."""

    def __init__(self, spool: Spool, client: MlflowClient) -> None:
        super().__init__(name="courier", daemon=True)
        self._spool, self._client = spool, client
        self._stopping = threading.Event()

    def run(self) -> None:
        """Deliver until `drain`."""
        rest = _LOOK_EVERY_S
        while not self._stopping.wait(rest):
            rest = _LOOK_EVERY_S
            try:
                for seconds in deliver(self._spool, self._client):
                    # Python runs one thread at a time: what this one takes, training loses.
                    if self._stopping.wait(seconds / _SHARE_OF_TIME):
                        return
            except STORE_ERRORS as error:
                if rest < _TRY_AGAIN_S:
                    _log.debug("the store does not answer: %s", error)
                rest = _TRY_AGAIN_S

    def drain(self, progress: Callable[[float], None]) -> bool:
        """Stop working in the background and deliver the rest at once.

        Args:
            progress: Told the share that is delivered, in [0, 1].

        Returns:
            Whether the store has everything.
        """
        self._stopping.set()
        self.join()
        waiting = max(1, self._spool.waiting)
        try:
            for _ in deliver(self._spool, self._client):
                progress(1 - self._spool.waiting / waiting)
        except STORE_ERRORS as error:
            _log.debug("the store does not answer: %s", error)
            return False
        return True
