"""Paired tests of two runs on the same samples, and their correction for several tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = 0.05
"""A difference with a smaller p-value is not considered noise."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947.

    Args:
        first: Which samples are successes of one run, (N,).
        second: Those of the other run, (N,).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest  # It takes a second to import.

    return float(binomtest(only_first, only_first + only_second).pvalue)


def paired_bootstrap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the difference of a score, from its values in the same resamples.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 15; Davison and Hinkley, Bootstrap
    methods and their application, 1997, chapter 4, for the added resample.

    Args:
        first: Values of one run, (resamples,); NaN for a resample without a value.
        second: Those of the other run; if they are more or fewer, the first ones are paired.
    """
    count = min(len(first), len(second))
    gaps = first[:count] - second[:count]
    gaps = gaps[np.isfinite(gaps)]
    tail = min(int((gaps <= 0).sum()), int((gaps >= 0).sum())) + 1
    return min(1.0, 2 * tail / (len(gaps) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, corrected so that one false rejection among them is as rare as in one test.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
