"""The scores of runs side by side, with paired tests of those whose predictions are stored."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from project.engine.comparison.paired import SIGNIFICANT, holm, mcnemar, paired_bootstrap
from project.engine.comparison.runs import ComparedRun, Predictions
from project.engine.tracking.names import AVERAGE_SPEED, BEST, EVALUATION

MCNEMAR, BOOTSTRAP = "McNemar", "bootstrap"
_ENDS = ("_low", "_high")


class Score(NamedTuple):
    """A score of all runs.

    Attributes:
        name: Its name in the runs.
        values: Its value for each run; None if the run does not have it.
        test: Name of the paired test; empty if it is not tested.
        best: Place of the best tested run.
        p_values: For each run, the p-value of its difference to the best run, corrected if there are several;
            None for the best run and for runs that are not tested.
    """

    name: str
    values: tuple[float | None, ...]
    test: str = ""
    best: int | None = None
    p_values: tuple[float | None, ...] = ()

    @property
    def better(self) -> int | None:
        """Place of the run that is better than every other tested run by more than noise, or None."""
        tested = [p for p in self.p_values if p is not None]
        return self.best if tested and max(tested) < SIGNIFICANT else None


def compare_scores(runs: Sequence[ComparedRun], split: str) -> list[Score]:
    """Return the scores of an evaluation on a split, then those at the end of training, and the speed."""
    prefix = f"{EVALUATION}/{split}"
    scores = []
    for name in _names([run.metrics for run in runs], prefix):
        values = tuple(run.metrics.get(name) for run in runs)
        score = Score(name, values)
        if name.startswith(prefix):
            score = _tested(score, runs, name.removeprefix(prefix).lstrip("/_"))
        scores.append(score)
    return scores


def _names(metrics: Sequence[Mapping[str, float]], prefix: str) -> Iterator[str]:
    """Yield the names of the shown metrics; a score of the training is left out if each run has evaluated it again."""
    known = sorted({name for each in metrics for name in each})
    evaluated = [name for name in known if name.startswith((f"{prefix}/", f"{prefix}_"))]
    scores = [name for name in evaluated if not (name.endswith(_ENDS) and name.rpartition("_")[0] in known)]
    yield from scores
    for start in ("test", BEST, AVERAGE_SPEED):
        for name in known:
            again = f"{EVALUATION}/{name.removeprefix(BEST)}"
            if name.startswith(start) and not (again in scores and all(again in each for each in metrics)):
                yield name


def _tested(score: Score, runs: Sequence[ComparedRun], name: str) -> Score:
    """Return a score with the test of each run against the best one, if the runs have predictions for the same data."""
    first = next((run.predictions for run in runs if run.predictions is not None), None)
    found = {
        place: run.predictions
        for place, run in enumerate(runs)
        if run.predictions is not None and first is not None and run.predictions.data == first.data
    }
    values = {place: value for place in found if (value := score.values[place]) is not None and isfinite(value)}
    test, mode = _test_of(name, list(found.values()))
    if len(values) < 2 or not test:
        return score
    best = (max if mode == "max" else min)(values, key=values.__getitem__)
    others = [place for place in values if place != best]
    p_values = holm([_p_value(name, test, found[best], found[place]) for place in others])
    corrected = dict(zip(others, p_values, strict=True))
    return score._replace(test=test, best=best, p_values=tuple(corrected.get(place) for place in range(len(runs))))


def _test_of(name: str, predictions: Sequence[Predictions]) -> tuple[str, str]:
    """Return the test of a score, and whether small or large values are better; empty texts without a test."""
    if all(name in each.hits for each in predictions):
        return MCNEMAR, "max"
    modes = {each.modes.get(name, "") for each in predictions}
    if all(name in each.draws for each in predictions) and len(modes) == 1 and (mode := modes.pop()):
        return BOOTSTRAP, mode
    return "", ""


def _p_value(name: str, test: str, first: Predictions, second: Predictions) -> float:
    if test == MCNEMAR:
        return mcnemar(first.hits[name], second.hits[name])
    return paired_bootstrap(first.draws[name], second.draws[name])
