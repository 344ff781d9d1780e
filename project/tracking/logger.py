"""The Lightning logger: one MLflow run for a fit, however many processes take part."""

import json
from argparse import Namespace
from collections.abc import Mapping
from time import monotonic, time
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from mlflow import MlflowClient, set_tracking_uri
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from typing_extensions import override

from project.tracking import store
from project.tracking.provenance import git_state, packages

_FLUSH_EVERY_S = 5.0
_PARAMS_A_REQUEST = 100
_PARAM_LENGTH = 6000
_METRICS_A_REQUEST = 1000


class MLflowLogger(Logger):
    """Sends metrics in batches; on other ranks than the first it does nothing.

    A run lasts from `start` or `resume` to `end`, which may span several calls of the trainer.

    Args:
        experiment: Name of the MLflow experiment.
        run_name: What tells the run apart in the UI's table.
    """

    def __init__(self, experiment: str, run_name: str) -> None:
        super().__init__()
        self.experiment_name, self.run_name = experiment, run_name
        self.run_id: str | None = None
        self.client: MlflowClient | None = None
        self._metrics: list[Metric] = []
        self._flushed_at = monotonic()
        self._system: SystemMetricsMonitor | None = None

    @property
    @override
    def name(self) -> str:
        return self.experiment_name

    @property
    @override
    def version(self) -> str | None:
        return self.run_id

    @rank_zero_only
    def start(self, client: MlflowClient, tags: Mapping[str, str]) -> None:
        """Create the run, with the commit, the packages and these tags."""
        git_tags, diff = git_state()
        run = client.create_run(
            store.experiment_id(client, self.experiment_name),
            run_name=self.run_name,
            tags=resolve_tags({**git_tags, **tags}),
        )
        self._open(client, run.info.run_id)
        self.log_text(packages(), "requirements.txt")
        if diff:
            self.log_text(diff, "git.diff")

    @rank_zero_only
    def resume(self, client: MlflowClient, run_id: str) -> None:
        """Go on in a run that has ended."""
        client.update_run(run_id, status="RUNNING")
        self._open(client, run_id)

    def _open(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        set_tracking_uri(store.tracking_uri())  # for MLflow's own model logging, which takes no client
        self._system = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            run_id, sampling_interval=2, resume_logging=True
        )
        self._system.start()  # type: ignore[no-untyped-call]

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        assert self.client is not None and self.run_id is not None
        items = params.items() if isinstance(params, dict) else vars(params).items()
        entities = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in items]
        for start in range(0, len(entities), _PARAMS_A_REQUEST):
            self.client.log_batch(self.run_id, params=entities[start : start + _PARAMS_A_REQUEST])

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        timestamp_ms = int(time() * 1000)
        self._metrics += [
            Metric(key, float(value), timestamp_ms, step or 0) for key, value in metrics.items() if key != "epoch"
        ]
        if monotonic() - self._flushed_at > _FLUSH_EVERY_S:
            self.save()

    @override
    @rank_zero_only
    def save(self) -> None:
        """Deliver the metrics that are waiting."""
        if self.client is None or self.run_id is None:
            return
        while self._metrics:
            self.client.log_batch(self.run_id, metrics=self._metrics[:_METRICS_A_REQUEST])
            del self._metrics[:_METRICS_A_REQUEST]
        self._flushed_at = monotonic()

    @rank_zero_only
    def log_dataset(self, name: str, digest: str, sizes: Mapping[str, int], source: str) -> None:
        """Record what the run trained on, as an MLflow dataset input."""
        assert self.client is not None and self.run_id is not None
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({f"num_{split}": size for split, size in sizes.items()}),
        )
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])])

    @rank_zero_only
    def log_text(self, text: str, path: str) -> None:
        """Store a text as an artifact of the run."""
        assert self.client is not None and self.run_id is not None
        self.client.log_text(self.run_id, text, path)

    @rank_zero_only
    def log_figure(self, figure: Figure, path: str) -> None:
        """Store a picture as an artifact of the run."""
        assert self.client is not None and self.run_id is not None
        self.client.log_figure(self.run_id, figure, path)

    @rank_zero_only
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        assert self.client is not None and self.run_id is not None
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def end(self, status: str) -> None:
        """Deliver what is waiting and close the run as FINISHED, FAILED or KILLED."""
        if self.client is None or self.run_id is None:
            return
        if self._system is not None:
            self._system.finish()  # type: ignore[no-untyped-call]
        self.save()
        self.client.set_terminated(self.run_id, status)
