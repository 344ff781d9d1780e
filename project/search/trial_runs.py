"""The trials' runs in MLflow, found by their tags: what a sweep knows of trials that ended while none listened."""

import json
from collections.abc import Sequence
from contextlib import suppress

import optuna
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import RunStatus

from project.search.study_run import RUN
from project.tracking import store
from project.tracking.recovery import recover, recover_run
from project.tracking.spool import Spool

_PARENT, _TRIAL = "mlflow.parentRunId", "trial"


class TrialRuns:
    """The child runs of a study's run, one a trial.

    Args:
        client: The store.
        experiment_id: Where the runs are.
        study: The study, whose own run is their parent.
        metrics: The study's metrics.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, study: optuna.Study, metrics: Sequence[str]) -> None:
        self._client, self._experiment_id, self._study, self._metrics = client, experiment_id, study, metrics

    def environment(self, number: int) -> dict[str, str]:
        """Variables by which a trial's run gets its tags in the request that makes it."""
        tags = {_PARENT: self._study.user_attrs[RUN], "study": self._study.study_name, _TRIAL: str(number)}
        return {"MLFLOW_RUN_CONTEXT": json.dumps(tags)}

    def find(self, number: int) -> str | None:
        """The run of a trial, None where it has made none yet."""
        of_trial = f"tags.`{_PARENT}` = '{self._study.user_attrs[RUN]}' and tags.`{_TRIAL}` = '{number}'"
        runs = self._client.search_runs([self._experiment_id], of_trial, max_results=1)
        return runs[0].info.run_id if runs else None

    def values(self, run_id: str) -> list[float] | None:
        """The metrics of a run that has finished, with that of its best checkpoint; None for one that has not."""
        with suppress(Timeout, FileNotFoundError):  # it is written, or delivered
            recover(self._client, Spool(store.spool_folder(run_id), new=False))
        run = self._client.get_run(run_id)
        if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
            return None
        found = run.data.metrics
        values = [found.get(f"best/{metric}", found.get(metric)) for metric in self._metrics]
        return None if None in values else [float(value) for value in values if value is not None]

    @staticmethod
    def fail(run_id: str, reason: str) -> None:
        """Close the run of a trial whose process died without a word."""
        recover_run(run_id, "FAILED", reason)
