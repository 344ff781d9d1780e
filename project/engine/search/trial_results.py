"""The results of trials, in the study and in their MLflow runs."""

import sys
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.trial import TrialState

from project.engine.search.messages import Done, Failed, Pruned, Stopped
from project.engine.search.ownership import had_worker
from project.engine.search.study import DONE_STATES, ERROR, RETRIES, RETRY_OF, RUN_ID, set_run
from project.engine.search.trial_process import TrialProcess
from project.engine.search.trial_runs import TrialRuns
from project.engine.tracking.recovery import recover_run

_MOST_FAILURES_AT_FIRST, _MOST_FAILURES_LATER = 3, 10


class HopelessError(RuntimeError):
    """Failure of so many trials in a row that the sweep ends."""


class TrialResults:
    """The recorder of the results of trials, which adds failed ones to the study again.

    Args:
        study: The study.
        metrics: Its metrics.
        runs: The trials' MLflow runs.
        max_retries: How often a failed trial is run again with the same parameters.
        most_trials: Number of points that the sampler can return.
    """

    def __init__(
        self,
        study: optuna.Study,
        metrics: Sequence[str],
        runs: TrialRuns,
        max_retries: int,
        most_trials: int = sys.maxsize,
    ) -> None:
        self._study, self._metrics, self._runs, self._max_retries = study, metrics, runs, max_retries
        self._most_at_first = min(most_trials, _MOST_FAILURES_AT_FIRST)
        self._failures: list[str] = []  # reasons of the failures in a row, without those that were retried

    def hopeless(self) -> str | None:
        """Return the reason to start no more trials, or None. Running trials continue.

        The reason is that three trials in a row, or all points of a smaller grid, failed before one was complete or
        pruned, or that ten failed after that.
        """
        successful = self._study.get_trials(deepcopy=False, states=DONE_STATES)
        count = len(self._failures)
        if count < (_MOST_FAILURES_LATER if successful else self._most_at_first):
            return None
        return f"{count} trial{'s' * (count != 1)} in a row failed; the last: {self._failures[-1]}"

    def run_of(self, trial: optuna.Trial) -> str | None:
        """Return the run of a trial; if its process died before it reported the run, look it up in the store."""
        run_id: str | None = trial.user_attrs.get(RUN_ID)
        if run_id is None and had_worker(trial) and (run_id := self._runs.find(trial.number)):
            set_run(trial, run_id)
        return run_id

    def complete_if_finished(self, trial: optuna.Trial) -> bool:
        """Complete a trial whose run is finished already. Return whether it was."""
        if (values := self._finished(trial)) is None:
            return False
        self._close(trial, values=values)
        return True

    def record(self, ended: TrialProcess, *, stopping: bool) -> None:
        """Record the result of a trial whose process has ended.

        Args:
            ended: The trial and its process.
            stopping: Whether the sweep stops. Trials that it has stopped stay as they are; the next sweep resumes them.

        Raises:
            UpdateFinishedTrialError: Another sweep has recorded a result.
        """
        trial = ended.trial
        if self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            raise UpdateFinishedTrialError
        match ended.outcome:
            case Done(values):
                self._complete(ended, values)
            case Pruned():
                self._close(trial, state=TrialState.PRUNED)
            case Stopped() | None if stopping:  # None: it was stopped before it could handle signals
                return
            case Stopped():
                self._fail(ended, "stopped by SIGTERM")
            case Failed(reason):
                self._fail(ended, reason)
            case None if (finished := self._finished(trial)) is not None:  # it died after finishing
                self._complete(ended, finished)
            case None:
                self._fail(ended, ended.exit_reason())

    def _complete(self, ended: TrialProcess, values: Sequence[float | None]) -> None:
        if None in values:  # for example, it was resumed after its last validation
            values = self._finished(ended.trial) or values
        lost = [metric for metric, value in zip(self._metrics, values, strict=True) if value is None]
        if lost or any(value != value for value in values):
            self._fail(ended, f"the run has no {lost[0]}" if lost else f"the metrics are {values}")
        else:
            self._close(ended.trial, values=values)

    def _finished(self, trial: optuna.Trial) -> list[float] | None:
        """Return the metrics of a trial whose run is finished, else None."""
        run_id = self.run_of(trial)
        return self._runs.values(run_id) if run_id else None

    def _fail(self, ended: TrialProcess, reason: str) -> None:
        trial = ended.trial
        retries = trial.user_attrs.get(RETRIES, 0)
        trial.set_user_attr(ERROR, reason)
        if (run_id := self.run_of(trial)) is None:
            self._runs.create_failed(trial, reason)
        elif ended.outcome is None:
            recover_run(run_id, "FAILED", reason)
        self._close(trial, state=TrialState.FAIL)
        if retries < self._max_retries:
            self._study.enqueue_trial(trial.params, user_attrs={RETRIES: retries + 1, RETRY_OF: trial.number})
        else:
            self._failures.append(reason)

    def _close(self, trial: optuna.Trial, **result: Any) -> None:
        state = result.get("state", TrialState.COMPLETE)
        if state != TrialState.FAIL:
            self._failures.clear()
        if run_id := self.run_of(trial):
            self._runs.before_end(trial, run_id, state)
        try:
            self._study.tell(trial, skip_if_finished=True, **result)
        except RuntimeError:  # These samplers raise it after their last parameters.
            if not isinstance(self._study.sampler, GridSampler | BruteForceSampler):
                raise
