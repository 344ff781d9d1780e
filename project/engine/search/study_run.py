"""The MLflow run of a study: parent of its trials' runs, with the best trial, the plots and the table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
from filelock import FileLock
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from project.engine.search.moment import metrics_of_run
from project.engine.search.plots import plots
from project.engine.search.space import SearchSpace
from project.engine.search.study import MLFLOW_RUN, RUN_ID, introduce_study, mark_of, training_command
from project.engine.search.trials_table import markdown_table, state_word
from project.engine.search.view import best_trials
from project.engine.tracking import experiments
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.description import TAG, describe_study
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.names import score_text
from project.engine.tracking.owner import PREFIX
from project.engine.tracking.recovery import is_held
from project.engine.tracking.tags import BEST_RUN, COMMAND, PARETO_TRIALS, STUDY

_COLUMNS = ("number", "state", "value", "params", "datetime_start", "duration", "user_attrs")
_MARK = f"{PREFIX}study"
"""Tag of a study's run: the study's mark."""


class StudyRun:
    """The MLflow run of a study. One of the sweeps that share the study writes it.

    Args:
        client: Client of the MLflow store.
        logger: Logger of the trials' experiment.
        study: The study; an attribute holds the id of its run.
        space: The search space.
        lock: The lock of the sweeps that share the study.
        command: The command that continues the study.
        settings: Settings that all trials share.
    """

    def __init__(
        self, client: MlflowClient, logger: MLflowLogger, study: optuna.Study, space: SearchSpace, lock: FileLock,
        command: str, settings: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._client, self._logger, self._study, self._space = client, logger, study, space
        self._lock, self._command, self._settings = lock, command, settings
        self._is_started = False
        self._logged_trials = 0
        self._shown: list[tuple[TrialState, str | None]] = []

    def start(self) -> None:
        """Create or resume the run, unless this or another sweep writes it already."""
        with self._lock:
            recorded = self._study.user_attrs.get(MLFLOW_RUN)
            earlier = recorded or self._unrecorded_run()
            if self._is_started or (earlier and is_held(earlier)):
                return
            self._is_started = True
            self._experiment_id = experiments.experiment_id(self._client, self._logger.experiment_name)
            if earlier:
                self._logger.resume(self._client, earlier, self._command, self._settings)
            else:
                tags = {STUDY: self._study.study_name, COMMAND: self._command, _MARK: mark_of(self._study)}
                self._logger.start(self._client, tags)
            if not recorded:
                self._study.set_user_attr(MLFLOW_RUN, self._logger.version)
                self._logger.log_hyperparams(dict(self._settings))
                self._logger.log_text(self._space.text, "search.yaml")
            introduce_study(self._study, self._space.metrics, str(self._logger.version), self._command)

    def _unrecorded_run(self) -> str | None:
        """Return the run that a sweep has created and, because it was killed, not recorded in the study."""
        marked = experiments.newest_runs(self._client, f"tags.`{_MARK}` = '{mark_of(self._study)}'", most=1)
        return str(marked[0].info.run_id) if marked else None

    def update(self) -> None:
        """Show the state of each trial, the number of complete trials, and the best values so far."""
        trials = self._study.get_trials(deepcopy=False)
        shown = [(trial.state, trial.user_attrs.get(RUN_ID)) for trial in trials]
        if not self._is_started or shown == self._shown:
            return
        self._shown = shown
        self._log_best_values([trial for trial in trials if trial.state == TrialState.COMPLETE])
        with self._best_effort("description"):
            self._describe()
            table = self._study.trials_dataframe(_COLUMNS).to_csv(index=False)
            self._logger.log_text(table, "study/trials.csv", "report")

    def _log_best_values(self, complete: Sequence[FrozenTrial]) -> None:
        if len(complete) == self._logged_trials:
            return
        self._logged_trials = len(complete)
        several = len(self._space.metrics) > 1  # If so, the best values are not those of one trial.
        best = {
            f"{direction[:3] if several else 'best'}/{metric}": (max if direction == "maximize" else min)(
                trial.values[place] for trial in complete
            )
            for place, (metric, direction) in enumerate(self._space.directions.items())
        }
        self._logger.log_metrics({"trials/complete": self._logged_trials, **best}, self._logged_trials)

    def _describe(self) -> None:
        """Write the state of the study into the description of its run."""
        trials = self._study.get_trials(deepcopy=False)
        wanted = " and ".join(f"{direction} `{metric}`" for metric, direction in self._space.directions.items())
        what = f"Study **{self._study.study_name}**: {wanted} over `{'`, `'.join(self._space.distributions)}`."
        best = best_trials(self._study)
        commands = {f"train with the settings of trial {one.number}": training_command(one) for one in best[:1]}
        table = markdown_table(self._study, self._space.metrics, self._link)
        commands["continue the study"] = self._command
        counts = Counter(state_word(trial.state) for trial in trials)
        values = [f"trial {one.number} with {', '.join(score_text(value) for value in one.values)}" for one in best]
        result = f"Best: {'; '.join(values)}." if values else ""
        self._logger.set_tags({TAG: describe_study(what, counts, result, commands, table)})

    def _link(self, run_id: str) -> str:
        """Return a link to a run, relative to the page of the study's run."""
        return f"[{run_id[:8]}](#/experiments/{self._experiment_id}/runs/{run_id})"

    def end(self, status: str) -> None:
        """Log the best trial, the plots and the table, and end the run. An error in one of them does not raise."""
        if not self._is_started:
            return
        try:
            with self._best_effort("report"):
                self._shown = []
                self.update()
            if best := best_trials(self._study):
                with self._best_effort("best"):
                    self._log_best(best)
                with self._best_effort("plots"):
                    self._log_plots()
        finally:
            self._logger.end(status)

    def _best_effort(self, what: str) -> AbstractContextManager[None]:
        return best_effort(self._logger, what, f"the study's run lacks all or part of its {what}")

    def _log_best(self, best: Sequence[FrozenTrial]) -> None:
        if len(self._space.metrics) > 1:
            self._logger.set_tags({PARETO_TRIALS: ", ".join(str(trial.number) for trial in best)})
            return
        run_id = best[0].user_attrs[RUN_ID]
        found = {f"best.{name}": str(value) for name, value in best[0].params.items()}
        self._logger.set_tags(found | {"best.trial": str(best[0].number), BEST_RUN: run_id})
        metrics = metrics_of_run(self._client, run_id)
        others = {f"best/{name}": value for name, value in metrics.items() if name not in self._space.metrics}
        self._logger.log_metrics(others, self._logged_trials)

    def _log_plots(self) -> None:
        page: list[str] = []
        for draw in plots(self._study, self._space.metrics):
            with self._best_effort("plots"):
                figure = draw().update_xaxes(exponentformat="e")  # Otherwise, 0.0001 is 100µ.
                page.append(figure.to_html(full_html=False, include_plotlyjs=not page))
        title = f"<!DOCTYPE html><meta charset='utf-8'><title>{self._study.study_name}</title>"
        self._logger.log_text(title + "".join(page), "study/plots.html", "plots")
