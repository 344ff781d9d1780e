"""The trials of a study as a table in Markdown: number, state, values, parameters, MLflow run."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from project.engine.search.study import RUN_ID
from project.engine.tracking.description import markdown_row
from project.engine.tracking.names import score_text, short
from project.engine.tracking.tags import STATE

_MOST_ROWS = 20
_ORDER = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING)
_PRUNED = "pruned"
"""Tag of a trial's run: when and with which value it was pruned."""


def state_word(state: TrialState) -> str:
    """Return complete, pruned, failed, running or waiting."""
    return "failed" if state == TrialState.FAIL else state.name.lower()


def state_tags(trial: FrozenTrial, state: TrialState, metrics: Sequence[str]) -> dict[str, str]:
    """Return the tags of a trial's run that show the state in which the trial ends."""
    tags = {STATE: state_word(state)}
    return tags | {_PRUNED: pruned(trial, metrics)} if state == TrialState.PRUNED else tags


def pruned(trial: FrozenTrial, metrics: Sequence[str]) -> str:
    """Return when and with which value a trial was pruned, such as `after 3 validations at val/loss 0.1234`."""
    value = "".join(f" at {metrics[0]} {score_text(value)}" for value in reported(trial))
    return f"after {_validations(trial)}{value}"


def progress(trial: FrozenTrial) -> str:
    """Return the state of a trial and how far it came, such as `pruned after 3 validations`."""
    if trial.state == TrialState.COMPLETE or not trial.intermediate_values:
        return state_word(trial.state)
    return f"{state_word(trial.state)} after {_validations(trial)}"


def _validations(trial: FrozenTrial) -> str:
    count = len(trial.intermediate_values)
    return f"{count} validation{'s' * (count != 1)}"


def reported(trial: FrozenTrial) -> list[float]:
    """Return the last value that a trial reported, if any."""
    return [] if trial.last_step is None else [trial.intermediate_values[trial.last_step]]


def latest_values(trial: FrozenTrial) -> list[float]:
    """Return the values of a complete trial; of another trial the last one that it reported, if any."""
    return list(trial.values) if trial.state == TrialState.COMPLETE else reported(trial)


def short_names(names: Iterable[str]) -> list[str]:
    """Return the last parts of dotted names, and whole names if two of them have the same last part."""
    names = list(names)
    ends = Counter(name.rpartition(".")[2] for name in names)
    return [name if ends[end := name.rpartition(".")[2]] > 1 else end for name in names]


def ranked(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials, or those in these states: running ones, then the complete ones from the best, then others."""
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        values = latest_values(trial)
        return _ORDER.index(trial.state), sign * values[0] if values else 0, trial.number

    return sorted(study.get_trials(deepcopy=False, states=states or None), key=rank)


def markdown_table(
    study: optuna.Study, metrics: Sequence[str], address: Callable[[str], str] = str, most: int = _MOST_ROWS
) -> str:
    """Return a Markdown table of the trials: running ones first, then the best of the complete ones, then the others.

    Args:
        study: The study.
        metrics: Its metrics.
        address: Maps a run's id to the text of the last column, such as a link.
        most: Number of trials to show.

    Returns:
        The table, with a line below it if there are more trials; empty if there are none.
    """
    trials = ranked(study)
    if not trials:
        return ""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    header = ["trial", "state", *metrics, *short_names(names), "run"]
    lines = [markdown_row(header), markdown_row(["---"] * len(header))]
    for trial in trials[:most]:
        values = [score_text(value) for value in latest_values(trial)]
        values += [""] * (len(metrics) - len(values))
        parameters = [short(trial.params.get(name, "")) for name in names]
        run_id = trial.user_attrs.get(RUN_ID)
        lines.append(
            markdown_row([str(trial.number), progress(trial), *values, *parameters, address(run_id) if run_id else ""])
        )
    if len(trials) > most:
        lines += ["", f"{len(trials) - most} more trials are in study/trials.csv."]
    return "\n".join(lines)
