"""The progress of a sweep in the terminal: trials done, the best trial so far, and the time left."""

from collections import Counter
from datetime import timedelta
from time import monotonic

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from project.engine.search.study import ERROR, RETRY_OF
from project.engine.search.trials_table import pruned, short_names
from project.engine.tracking.names import short

_SHOWN = 5
_STATES = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL)


class View:
    """A line for each trial that ends; in a terminal also a summary below them, which is updated in place.

    Args:
        study: The study.
        metrics: Its metrics.
        n_trials: Number of trials to reach.
        console: Output.
    """

    def __init__(self, study: optuna.Study, metrics: list[str], n_trials: int, console: Console) -> None:
        self._study, self._metrics, self._n_trials, self._console = study, metrics, n_trials, console
        self._seen = {trial.number for trial in self._trials() if trial.state.is_finished()}
        self._before = len(self._seen)
        self._start = monotonic()
        self._compared = 0
        self._best: FrozenTrial | None = None
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def update(self) -> None:
        """Print trials that have ended, and update the summary."""
        trials = self._trials()
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._console.print(describe_trial(trial, self._metrics), highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self._summary(trials))

    def _summary(self, trials: list[FrozenTrial]) -> Group:
        counts = Counter(trial.state for trial in trials)
        words = ["done", "running", "pruned", "failed"]
        line = ", ".join(f"{counts[state]} {word}" for state, word in zip(_STATES, words, strict=True))
        lines = [Text(f"{line} of {self._n_trials}; {self._time_left(counts)}", style="bold")]
        if counts[TrialState.COMPLETE] != self._compared:
            self._compared = counts[TrialState.COMPLETE]
            self._best = best_trials(self._study)[0]
        if self._best:
            lines.append(Text(f"best so far: {describe_trial(self._best, self._metrics)}"))
        return Group(*lines)

    def _time_left(self, counts: Counter[TrialState]) -> str:
        ended = len(self._seen) - self._before
        if not ended:
            return "no trial has ended yet"
        left = max(0, self._n_trials - counts[TrialState.COMPLETE] - counts[TrialState.PRUNED])
        return f"about {timedelta(seconds=round((monotonic() - self._start) / ended * left))} left"


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return complete trials, the best first; if there are several metrics, the Pareto front."""
    if len(study.directions) > 1:
        return study.best_trials
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(complete, key=lambda trial: trial.values[0], reverse=study.direction.name == "MAXIMIZE")


def describe_trial(trial: FrozenTrial, metrics: list[str]) -> str:
    """Describe a trial in one line."""
    if trial.state == TrialState.COMPLETE:
        result = ", ".join(f"{name} {value:.4f}" for name, value in zip(metrics, trial.values, strict=True))
    elif trial.state == TrialState.PRUNED:
        result = f"pruned {pruned(trial, metrics)}"
    else:
        result = f"failed: {trial.user_attrs.get(ERROR, 'unknown reason').partition('; ')[0]}"  # without the remedy
    again = f", {trial.user_attrs[RETRY_OF]} again" if RETRY_OF in trial.user_attrs else ""
    return f"trial {trial.number}{again}: {result}  ({', '.join(f'{k} {short(v)}' for k, v in trial.params.items())})"


def table_of_best(study: optuna.Study, metrics: list[str]) -> Table:
    """Return a table of the best five trials, or of the Pareto front."""
    trials = best_trials(study)
    names = list(trials[0].params)
    several = len(metrics) > 1
    table = Table(
        "trial",
        *metrics,
        *short_names(names),
        title=f"{'Pareto front' if several else 'best trials'} of {study.study_name}",
    )
    for trial in trials if several else trials[:_SHOWN]:
        values = [f"{value:.4f}" for value in trial.values]
        table.add_row(str(trial.number), *values, *(short(trial.params[name]) for name in names))
    return table
