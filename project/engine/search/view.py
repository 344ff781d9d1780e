"""The progress of a sweep in the terminal: the trials that have ended, and the time left."""

from collections import Counter
from math import inf

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from project.engine.search.study import DONE_STATES, ERROR, RETRY_OF
from project.engine.search.trials_table import pruned, ranked, short_names
from project.engine.tracking.names import score_text, short

_SHOWN = 5


class View:
    """A line for each trial that ends; in a terminal also a bar below the lines, with the time left.

    Args:
        study: The study.
        metrics: Its metrics.
        n_trials: Number of trials to reach.
        console: Output.
    """

    def __init__(self, study: optuna.Study, metrics: list[str], n_trials: int, console: Console) -> None:
        self._study, self._metrics, self._console = study, metrics, console
        trials = study.get_trials(deepcopy=False)
        self._seen = {trial.number for trial in trials if trial.state.is_finished()}
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal, refresh_per_second=2,
            speed_estimate_period=inf,
        )  # fmt: skip
        done = sum(trial.state in DONE_STATES for trial in trials)
        self._task = self._bar.add_task("", total=n_trials, completed=done)

    def __enter__(self) -> "View":
        self._bar.start()
        self._bar.advance(self._task, 0)  # Otherwise the time left would count from the end of the first trial.
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Print trials that have ended, and update the bar."""
        trials = self._study.get_trials(deepcopy=False)
        if ended := [trial for trial in trials if trial.state.is_finished() and trial.number not in self._seen]:
            best = {trial.number for trial in best_trials(self._study)}
            mark = ", on the Pareto front" if len(self._metrics) > 1 else ", best so far"
            for trial in ended:
                line = describe_trial(trial, self._metrics, mark * (trial.number in best))
                self._console.print(line, highlight=False, soft_wrap=True)
            self._seen.update(trial.number for trial in ended)
        counts = Counter(trial.state for trial in trials)
        text = f"trials: {counts[TrialState.RUNNING]} running, {counts[TrialState.FAIL]} failed"
        self._bar.update(self._task, completed=sum(counts[state] for state in DONE_STATES), description=text)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the best complete trial, if any; if there are several metrics, the Pareto front."""
    return study.best_trials[: None if len(study.directions) > 1 else 1]


def describe_trial(trial: FrozenTrial, metrics: list[str], mark: str = "") -> str:
    """Describe a trial in one line, with a mark after its result."""
    if trial.state == TrialState.COMPLETE:
        result = ", ".join(f"{name} {score_text(value)}" for name, value in zip(metrics, trial.values, strict=True))
    elif trial.state == TrialState.PRUNED:
        result = f"pruned {pruned(trial, metrics)}"
    else:
        result = f"failed: {trial.user_attrs.get(ERROR, 'unknown reason').partition('; ')[0]}"  # without the remedy
    again = f", {trial.user_attrs[RETRY_OF]} again" if RETRY_OF in trial.user_attrs else ""
    parameters = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}{again}: {result}{mark}  ({parameters})"


def table_of_best(study: optuna.Study, metrics: list[str]) -> Table:
    """Return a table of the best five trials, or of the Pareto front."""
    several = len(metrics) > 1
    trials = study.best_trials if several else ranked(study, TrialState.COMPLETE)[:_SHOWN]
    names = list(trials[0].params)
    title = f"{'Pareto front' if several else 'best trials'} of {study.study_name}"
    table = Table("trial", *metrics, *short_names(names), title=title)
    for trial in trials:
        values = [score_text(value) for value in trial.values]
        table.add_row(str(trial.number), *values, *(short(trial.params[name]) for name in names))
    return table
