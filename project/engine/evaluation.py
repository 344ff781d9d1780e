"""The result of an evaluation beyond the logged metrics, and the 95 % intervals of its numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # `project.compare` starts without torch.
    from torch import Tensor

CONFIDENCE = 0.95
SEED = 0
RESAMPLES = 1000
_FEWEST_RESAMPLES = 100
_MOST_DRAWN = 300_000_000

Columns = Mapping[str, Any]
"""Lists or arrays of one length, by the name of the column."""
Draws = Mapping[str, NDArray[np.float64]]
"""Values of scores in the resamples of a bootstrap, (resamples,), by the name of the score."""


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """The scores, intervals and tables that a task adds to the metrics that its test logs.

    Attributes:
        scores: More scores of the whole split, by name.
        intervals: Intervals of these scores and of the logged metrics, by name without the stage.
        samples: Target and prediction of each sample; empty if they are too large for a table.
        tables: Further tables, by name, such as one with a row for each class.
        hits: Which samples are successes, (N,) bool, of each score that is a share of successes.
        draws: Values of other scores in resamples of the samples. The resamples depend only on the number of samples,
            so that `project.compare` pairs the values of two runs.
        modes: Whether small or large values of a score in `draws` are better; scores without an entry have no order.
        absent: What the task does not declare, for one line in the terminal.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    samples: Columns = field(default_factory=dict)
    tables: Mapping[str, Columns] = field(default_factory=dict)
    hits: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    draws: Draws = field(default_factory=dict)
    modes: Mapping[str, Literal["min", "max"]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def as_columns(name: str, values: Tensor) -> dict[str, Any]:
    """Return numbers (N,) or (N, K) as columns with the name, which is numbered if there are several."""
    if values.ndim == 1:
        return {name: values.numpy()}
    if values.shape[1] == 1:
        return {name: values[:, 0].numpy()}
    return {f"{name}_{place}": column.numpy() for place, column in enumerate(values.T)}


def wilson(successes: int, of: int) -> Interval:
    """Return Wilson's score interval of a proportion.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    from scipy.stats import binomtest  # It takes a second to import, and training does not need it.

    ends = binomtest(successes, of).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(ends.low), float(ends.high))


def bootstrap_draws(
    scores: Callable[[NDArray[np.int64]], Mapping[str, float]], samples: int, size: int = 1
) -> dict[str, NDArray[np.float64]]:
    """Return the values of scores in 1,000 resamples with the seed `SEED`; none if there is one sample.

    The first resamples of two calls with the same number of samples have the same rows.

    Source: Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 1979.

    Args:
        scores: Returns the scores of rows, (samples,) int64; a row may be drawn several times.
        samples: Number of samples.
        size: Numbers in the outputs of a sample. Large data are resampled less often, but at least 100 times.
    """
    if samples < 2:
        return {}
    resamples = int(np.clip(_MOST_DRAWN // (samples * size), _FEWEST_RESAMPLES, RESAMPLES))
    rng = np.random.default_rng(SEED)
    drawn = [scores(rng.integers(0, samples, samples)) for _ in range(resamples)]
    return {name: np.array([draw[name] for draw in drawn], float) for name in drawn[0]}


def percentile_intervals(draws: Draws) -> dict[str, Interval]:
    """Return the percentile bootstrap intervals of scores from their values in resamples."""
    if not draws:
        return {}
    with warnings.catch_warnings():
        # A score is not a number for a resample that lacks what it needs, such as a second class.
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = np.nanpercentile(list(draws.values()), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=-1)
    ends = zip(draws, low, high, strict=True)
    return {name: Interval(float(low), float(high)) for name, low, high in ends}
