"""The MLflow runs of trials. They are found by their tags, also if a trial ended while no sweep was running."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import optuna
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from optuna.trial import TrialState

from project.engine.search.moment import metrics_of_run
from project.engine.search.retention import release_checkpoints
from project.engine.search.study import ERROR, MLFLOW_RUN, RETRY_OF, set_run
from project.engine.search.sweep_options import Keep
from project.engine.search.trials_table import state_tags, state_word
from project.engine.tracking import experiments, store
from project.engine.tracking.names import parameter_text, run_name
from project.engine.tracking.recovery import recover, tag_ended_run
from project.engine.tracking.secrets import redact, redact_setting
from project.engine.tracking.spool import Spool
from project.engine.tracking.tags import STATE, STUDY, TRIAL

_log = logging.getLogger(__name__)


class TrialRuns:
    """The child runs of a study's run, one per trial.

    Args:
        client: Client of the MLflow store.
        experiment_id: Experiment of the study.
        study: The study, whose own run is their parent.
        metrics: The study's metrics.
        keep: Checkpoints that are kept of ended trials: "weights" of complete ones, or "all" of all trials.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        study: optuna.Study,
        metrics: Sequence[str],
        keep: Keep = "weights",
    ) -> None:
        self._client, self._experiment_id, self._study, self._metrics = client, experiment_id, study, metrics
        self._keep = keep
        self._waits = False

    def can_be_created(self) -> bool:
        """Return whether the store responds. If it does not, a trial would fail, so that the sweep waits for it."""
        try:
            self._client.search_experiments(max_results=1)
        except (MlflowException, OSError) as error:
            if not self._waits:
                _log.warning(
                    "the MLflow store does not respond: %s; no trial starts until it does", store.reason(error)
                )
            self._waits = True
            return False
        if self._waits:
            _log.warning("the MLflow store responds again")
        self._waits = False
        return True

    def environment(self, number: int) -> dict[str, str]:
        """Return the environment variables by which a trial's run gets its tags when it is created."""
        return {"MLFLOW_RUN_CONTEXT": json.dumps(self._tags(number))}

    def _tags(self, number: int) -> dict[str, str]:
        trial = self._study.get_trials(deepcopy=False)[number]
        tags = {
            MLFLOW_PARENT_RUN_ID: self._study.user_attrs[MLFLOW_RUN],
            MLFLOW_RUN_NAME: run_name(f"trial {number}", trial.params),
            STUDY: self._study.study_name,
            TRIAL: str(number),
        }
        retry_of = trial.user_attrs.get(RETRY_OF)
        return tags if retry_of is None else tags | {RETRY_OF: str(retry_of)}

    def find(self, number: int) -> str | None:
        """Return the run of a trial; None if it has not created one yet."""
        of_trial = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._study.user_attrs[MLFLOW_RUN]}' and tags.`{TRIAL}` = '{number}'"
        )
        with _tolerate_errors_of_the_store():
            # The experiments of trials differ if the sweep varies `data`.
            for run in experiments.newest_runs(self._client, of_trial, most=1):
                return str(run.info.run_id)
        return None

    def values(self, run_id: str) -> list[float] | None:
        """Return the metrics of a finished run, all of its best checkpoint; None for another run."""
        with suppress(Timeout, FileNotFoundError):  # another process writes it, or it is delivered already
            recover(self._client, Spool(store.spool_folder(run_id), new=False))
        with _tolerate_errors_of_the_store():
            if self._client.get_run(run_id).info.status == "FINISHED":
                found = metrics_of_run(self._client, run_id, self._metrics)
                if found.keys() >= set(self._metrics):
                    return [found[metric] for metric in self._metrics]
        return None

    def before_end(self, trial: optuna.Trial, run_id: str, state: TrialState) -> None:
        """Mark the run with the trial's state, and free disk space, before a result is recorded in the study.

        After a kill at this point, it is done again.
        """
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        with _tolerate_errors_of_the_store():
            tag_ended_run(self._client, run_id, state_tags(frozen, state, self._metrics))
        if self._keep != "all":
            release_checkpoints(run_id, state)

    def create_failed(self, trial: optuna.Trial, reason: str) -> None:
        """Create the run of a trial that failed before it had one."""
        tags = self._tags(trial.number) | {ERROR: redact(reason), STATE: state_word(TrialState.FAIL)}
        params = [Param(key, redact_setting(key, parameter_text(value))) for key, value in trial.params.items()]
        with _tolerate_errors_of_the_store():
            run = self._client.create_run(self._experiment_id, run_name=tags[MLFLOW_RUN_NAME], tags=resolve_tags(tags))
            run_id: str = run.info.run_id
            self._client.log_batch(run_id, params=params)
            self._client.set_terminated(run_id, "FAILED")
            set_run(trial, run_id)


@contextmanager
def _tolerate_errors_of_the_store() -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:  # The sweep continues.
        _log.warning("the MLflow store does not respond: %s", store.reason(error))
