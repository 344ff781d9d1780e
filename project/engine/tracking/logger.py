"""The Lightning logger: one MLflow run per fit, for any number of processes.

    log_metrics, log_text, ... -> Spool (disk) -> Courier (thread) -> MLflow

After the run is created, no method raises into training, and none waits for the store, unless logging is synchronous.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, nan
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self

from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from typing_extensions import override

from project.engine.compat import latest_metrics
from project.engine.data import DescribedDataModule
from project.engine.tracking import experiments, store
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.delivery import Courier, deliver
from project.engine.tracking.draining import drain
from project.engine.tracking.names import parameter_text
from project.engine.tracking.owner import owner_tags
from project.engine.tracking.provenance import DIFF, PACKAGES, git_state, packages
from project.engine.tracking.secrets import redact, redact_setting
from project.engine.tracking.spool import Spool
from project.engine.tracking.system import SystemMetrics
from project.engine.tracking.tags import CHANGED, RESUMED, current_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPOCH = "epoch"  # the trainer adds it to its metrics
_UNSET = "None"
"""Text of a setting without a value, which is not a parameter; the artifact with all settings contains it."""
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_LONGEST_FINAL_DELIVERY_S = 4.0


class MLflowLogger(Logger):
    """Logger that writes to the run's spool; it does nothing on ranks other than the first.

    A run lasts from `start` or `resume` to `end`, which may span several calls of the trainer.

    Args:
        experiment: Name of the MLflow experiment.
        run_name: Name of the run in the UI.
        asynchronous: False makes each call wait until the store has its record or does not take it.

    Attributes:
        status: How the run ended; None before.
        epochs_trained: Returns the epochs trained so far, logged with the metrics of training; None logs none.
        artifact_uri: Where the store keeps the artifacts of the run; empty before the run starts.
    """

    def __init__(self, experiment: str, run_name: str, *, asynchronous: bool = True) -> None:
        super().__init__()
        self._asynchronous = asynchronous
        self.experiment_name, self.run_name = experiment, redact(run_name)
        self.spool: Spool | None = None
        self.status: str | None = None
        self.artifact_uri = ""
        self.epochs_trained: Callable[[], float] | None = None
        self._step_of_epoch: int | None = None
        self._logs_scores: bool | None = None  # None outside of `scoring`.
        self._dataset: tuple[str, str] | None = None
        self._earlier_settings: Mapping[str, str] = {}
        self._logged_settings: set[str] = set()
        self._run_id: str | None = None
        self._client: MlflowClient | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> Self | None:
        """Return the MLflow logger among those of a trainer; None if nothing is tracked."""
        return next((logger for logger in trainer.loggers if isinstance(logger, cls)), None)

    @property
    @override
    def name(self) -> str:
        return self.experiment_name

    @property
    @override
    def version(self) -> str | None:
        return self._run_id

    @property
    @override
    def save_dir(self) -> str | None:
        """The folder of the run's checkpoints, which a module finds as `trainer.log_dir`; None on other ranks."""
        return str(store.checkpoint_folder(self._run_id)) if self._run_id else None

    @property
    def run_id(self) -> str | None:
        """The id of the run, as Lightning's MLFlowLogger names it; None on ranks other than the first."""
        return self._run_id

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """A client of the store, as in Lightning's MLFlowLogger, for code that is written for it.

        Unlike the methods of this logger, its methods wait for the store, and raise if it does not respond.
        """
        return self._client or store.connect()

    @rank_zero_only
    def start(
        self, client: MlflowClient, tags: Mapping[str, str], experiment_note: str = "", monitor: str | None = None
    ) -> None:
        """Create the run, with the commit, the packages and these tags; describe an experiment without description.

        MLflow's UI compares runs by the metric that was logged first. It is the best value of the monitored metric,
        which is not a number before the first validation.
        """
        git_tags, diff = git_state()
        experiment = experiments.experiment_id(client, self.experiment_name)
        experiments.describe_experiment(client, experiment, redact(experiment_note))
        all_tags: dict[str, str] = resolve_tags({**git_tags, **_redacted(tags), **owner_tags()})
        self.run_name = all_tags.pop(MLFLOW_RUN_NAME, self.run_name)  # MLFLOW_RUN_CONTEXT may name the run.
        run = client.create_run(experiment, run_name=self.run_name, tags=all_tags)
        self.artifact_uri = run.info.artifact_uri
        try:
            spool = Spool(store.spool_folder(run.info.run_id))
            spool.append({"status": "RUNNING"})
            if monitor is not None:
                spool.append({"metrics": {f"best/{monitor}": nan}, "step": 0, "time_ms": _now_ms()})
            self._open(client, spool)
        except BaseException as error:  # Such as a signal; `end` does not know the run yet.
            if self._run_id is None:
                client.set_terminated(run.info.run_id, "KILLED" if isinstance(error, SystemExit) else "FAILED")
            raise
        self.log_text(packages(), PACKAGES)
        if diff:
            self.log_text(diff, DIFF)

    @rank_zero_only
    def resume(self, client: MlflowClient, run_id: str, command: str, settings: Mapping[str, Any]) -> None:
        """Continue a run that has ended; changed settings become tags, because MLflow parameters are immutable."""
        # The preceding recovery may still hold the spool while a request is in flight.
        spool = Spool(store.spool_folder(run_id), wait_s=store.LONGEST_REQUEST_S)
        for tag, value in owner_tags().items():  # before the run is RUNNING, or others consider its process dead
            client.set_tag(run_id, tag, value)
        spool.append({"status": "RUNNING"})
        for _ in deliver(spool, client, ["state"]):
            pass  # The spool may also have the status and the error of an earlier process.
        run = client.get_run(run_id)
        self.run_name = run.info.run_name or self.run_name
        self._earlier_settings, self.artifact_uri = current_settings(run), run.info.artifact_uri
        for tag in {"error", "traceback"} & set(run.data.tags):
            client.delete_tag(run_id, tag)
        steps = [m.step for m in latest_metrics(run) if m.key.startswith("system/")]
        self._open(client, spool, first_step=max(steps, default=-1) + 1)
        self.set_tags({RESUMED: command})
        self.log_hyperparams(dict(settings))

    def _open(self, client: MlflowClient, spool: Spool, first_step: int = 0) -> None:
        # A signal may arrive between any two of these lines; `end` must then close what exists.
        self._client, self._courier = client, Courier(spool, client)
        unwanted = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()
        self._system = SystemMetrics(spool.beat, self.log_metrics, first_step, kinds=() if unwanted else None)
        self._run_id, self.spool = spool.run_id, spool
        if self._asynchronous:
            self._courier.start()
        self._system.start()

    def _append(self, **record: Any) -> None:
        if self.spool is not None:
            self.spool.append(record)
            if not self._asynchronous:
                self._courier.deliver_now()

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        settings = _as_texts(params if isinstance(params, dict) else vars(params))
        # A hyper-parameter of the module may have the name of a setting of the run, such as `model`.
        settings = {key: value for key, value in settings.items() if key not in self._logged_settings}
        self._logged_settings |= settings.keys()
        if earlier := self._earlier_settings:  # A run that was killed before it logged its settings has none.
            changed = {key: value for key, value in settings.items() if value != earlier.get(key, _UNSET)}
            self.set_tags({f"{CHANGED}{key}": value for key, value in changed.items()})
            return
        self._append(params={key: value for key, value in settings.items() if value != _UNSET})

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items() if key != _EPOCH}
        if not values or self._logs_scores is False:
            return
        if _EPOCH in metrics and self.epochs_trained is not None and step != self._step_of_epoch:
            # MLflow's UI pairs the points of two metrics by their order, so that each step has one epoch.
            values[_EPOCH], self._step_of_epoch = self.epochs_trained(), step
        is_score = self._logs_scores and all(name.startswith("test") for name in values)
        self._append(metrics=values, step=0 if is_score else step or 0, time_ms=_now_ms())

    @contextmanager
    def scoring(self, *, logged: bool) -> Iterator[None]:
        """Log metrics of the test at step 0 in the block, for which MLflow's UI draws bars, not curves of one point.

        Args:
            logged: False logs no metrics in the block, but artifacts and tags.
        """
        self._logs_scores = logged
        try:
            yield
        finally:
            self._logs_scores = None

    @rank_zero_only
    def log_dataset(self, data: DescribedDataModule) -> None:
        """Record the data of the run as an MLflow dataset input.

        Args:
            data: The data; the page of the run lists each entry of its profile.
        """
        digest = data.digest()
        self._dataset = (data.name, digest)
        counts = {f"num_{split}": size for split, size in data.sizes().items()}
        self._append(
            dataset={
                "name": data.name,
                "digest": digest,
                "source_type": "local",
                "source": json.dumps({"uri": redact(data.source or data.name)}),
                "profile": json.dumps({**counts, **data.profile()}),
            }
        )

    @rank_zero_only
    def log_file(self, write: Callable[[Path], object], path: str, what: str = "artifact") -> None:
        """Store an artifact that a function writes; an error becomes the tag `WHAT.error`."""
        with best_effort(self, what, f"the artifact {path} cannot be written"):
            if (file := self.artifact_file(path)) is not None:
                write(file)
                self._append(file=path)

    def log_text(self, text: str, path: str, what: str = "artifact") -> None:
        """Store a text as an artifact of the run; see `log_file`."""
        self.log_file(lambda file: file.write_text(redact(text), encoding="utf-8", errors="replace"), path, what)

    def log_figure(self, draw: Callable[[], "Figure"], path: str, what: str = "artifact") -> None:
        """Draw a picture and store it as an artifact of the run; see `log_file`."""
        self.log_file(lambda file: draw().savefig(file, bbox_inches="tight"), path, what)

    def artifact_file(self, path: str) -> Path | None:
        """Return the file or folder to write an artifact to, in a folder that exists; None if nothing is tracked.

        Raises:
            OSError: The folder cannot be created.
        """
        if self.spool is None:
            return None
        file = self.spool.files / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    @rank_zero_only
    def log_saved_model(self, name: str, tags: Mapping[str, str] = {}) -> None:
        """Log the MLflow model that `artifact_file(name)` holds, with the run's scores on its dataset, and tags."""
        self._append(model=name, tags=_redacted(tags), dataset=self._dataset)

    @rank_zero_only
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._append(tags=_redacted(tags))

    @rank_zero_only
    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED, and deliver the remaining records if the store responds.

        For a failed or interrupted run, this takes a few seconds at most. Its status is delivered first.
        """
        if self.spool is None:
            return
        self._system.stop()
        self.spool.append({"status": status, "time_ms": _now_ms()})
        self.status = status
        if drain(self._courier, self.spool, inf if status == "FINISHED" else _LONGEST_FINAL_DELIVERY_S):
            self.spool.close(remove=not self.spool.waiting)
        else:  # The lock is held until the process and its last request end.
            self.spool.disown()
        self.spool = None


def _now_ms() -> int:
    return int(time() * 1000)


def _redacted(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: redact(value)[:_TAG_LENGTH] for key, value in tags.items()}


def _as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: redact_setting(key, parameter_text(value))[:_PARAM_LENGTH] for key, value in settings.items()}
