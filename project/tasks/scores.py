"""Scores of a classifier from the probabilities of all samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from project.engine.evaluation import Columns, bootstrap_draws, wilson

TOP = 5
SMALL_IS_BETTER = ("calibration_error",)
"""Scores of which small values are better."""
_BINS = 15


class ClassificationScores:
    """Scores of all samples, or of a resample of them.

    Args:
        probabilities: (N, classes) float.
        labels: (N,) int64.
    """

    def __init__(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self.labels, self.classes = labels, probabilities.shape[1]
        self.guess = probabilities.argmax(1)
        self._right = self.guess == labels
        self._confidence = probabilities.max(1)
        # As in torchmetrics, a bin contains its lower end.
        self._bin = np.digitize(self._confidence, np.linspace(0, 1, _BINS + 1)) - 1
        own = np.take_along_axis(probabilities, labels[:, None], 1)
        earlier = (probabilities == own) & (np.arange(self.classes) < labels[:, None])
        self._in_top = ((probabilities > own) | earlier).sum(1) < TOP
        self._order = probabilities.argsort(0, kind="stable")  # (N, classes)
        self._first, self._end = _ties(np.take_along_axis(probabilities, self._order, 0))

    def scores(self) -> dict[str, float]:
        """Return the scores of all samples."""
        found = self.of(np.arange(len(self.labels)))
        return {**found, f"top{TOP}_accuracy": float(self._in_top.mean())} if self.classes > TOP else found

    def hits(self) -> dict[str, NDArray[np.bool_]]:
        """Return which samples are successes, (N,), for each score that is a share of successes."""
        return {"accuracy": self._right} | ({f"top{TOP}_accuracy": self._in_top} if self.classes > TOP else {})

    def draws(self) -> dict[str, NDArray[np.float64]]:
        """Return the other scores in resamples; see `bootstrap_draws`."""
        return bootstrap_draws(self.of, len(self.labels), self.classes)

    def of(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return the scores of rows, (n,) int64, which may repeat.

        The mean over classes leaves out classes without samples.
        """
        times = np.bincount(rows, minlength=len(self.labels)).astype(float)
        true, guessed, right = self._counts(times)
        seen = true > 0
        return {
            "balanced_accuracy": float((right / np.maximum(true, 1))[seen].mean()),
            "macro_precision": float((right / np.maximum(guessed, 1))[seen].mean()),
            "macro_f1": float((2 * right / np.maximum(true + guessed, 1))[seen].mean()),
            "auroc": self._auroc(times, true),
            "calibration_error": self._calibration_error(times),
        }

    def per_class(self, names: Sequence[str]) -> Columns:
        """Return a row for each class; precision, recall and F1 are None without a sample or prediction."""
        true, guessed, right = self._counts(np.ones(len(self.labels)))
        ends = [wilson(int(hits), int(count)) if count else None for hits, count in zip(right, true, strict=True)]
        return {
            "class": list(names),
            "samples": true.astype(int).tolist(),
            "precision": [float(r / g) if g else None for r, g in zip(right, guessed, strict=True)],
            "recall": [float(r / t) if t else None for r, t in zip(right, true, strict=True)],
            "recall_low": [end.low if end else None for end in ends],
            "recall_high": [end.high if end else None for end in ends],
            "f1": [float(2 * r / (t + g)) if t + g else None for r, t, g in zip(right, true, guessed, strict=True)],
        }

    def _counts(self, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        return tuple(
            np.bincount(of, weights, self.classes).astype(float)
            for of, weights in ((self.labels, times), (self.guess, times), (self.labels, times * self._right))
        )

    def _auroc(self, times: NDArray[np.float64], true: NDArray[np.float64]) -> float:
        """Return the mean area under the ROC curves of each class against the rest, by the Mann-Whitney statistic."""
        drawn = times[self._order]
        positive = np.where(self.labels[self._order] == np.arange(self.classes), drawn, 0)
        negative = np.vstack([np.zeros((1, self.classes)), (drawn - positive).cumsum(0)])
        # Half of the equal probabilities count as lower.
        before, through = (np.take_along_axis(negative, places, 0) for places in (self._first, self._end))
        pairs = true * (times.sum() - true)
        areas = (positive * (before + through) / 2).sum(0)
        defined = pairs > 0
        return float((areas[defined] / pairs[defined]).mean()) if defined.any() else float("nan")

    def _calibration_error(self, times: NDArray[np.float64]) -> float:
        """Return the expected calibration error, with 15 bins of equal width.

        Source: Guo et al., On calibration of modern neural networks, ICML 2017.
        """
        gap = np.bincount(self._bin, times * (self._confidence - self._right), _BINS + 1)
        return float(np.abs(gap).sum() / times.sum())


def _ties(ordered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of the first of equal values, and the place after the last; (N, classes) in rising order."""
    rows = np.arange(len(ordered))[:, None]
    changes = ordered[1:] != ordered[:-1]
    edge = np.ones((1, ordered.shape[1]), bool)
    first = np.maximum.accumulate(np.where(np.vstack([edge, changes]), rows, 0), 0)
    end = np.where(np.vstack([changes, edge]), rows + 1, len(ordered))
    return first, np.minimum.accumulate(end[::-1], 0)[::-1]
