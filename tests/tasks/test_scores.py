import numpy as np
import pytest
import torch
from torchmetrics.functional import classification as metrics

from project.engine.evaluation import RESAMPLES, SEED, bootstrap_draws, percentile_intervals, wilson
from project.tasks.scores import ClassificationScores


@pytest.mark.parametrize("rounded", [False, True], ids=["different", "tied"])
def test_scores_are_those_of_torchmetrics(rounded: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (300,), generator=draw)
    logits = 2 * torch.randn(300, 7, generator=draw)
    logits[torch.arange(300), labels] += 2
    found = logits.softmax(1)
    probabilities = (32 * found).round() / 32 if rounded else found
    scores = ClassificationScores(probabilities.double().numpy(), labels.numpy()).scores()
    assert scores["auroc"] == pytest.approx(float(metrics.multiclass_auroc(probabilities, labels, 7)), rel=1e-6)
    expected = {
        "balanced_accuracy": metrics.multiclass_accuracy(probabilities, labels, 7),
        "macro_precision": metrics.multiclass_precision(probabilities, labels, 7),
        "macro_f1": metrics.multiclass_f1_score(probabilities, labels, 7),
        "calibration_error": metrics.multiclass_calibration_error(found, labels, 7, n_bins=15),
        "top5_accuracy": metrics.multiclass_accuracy(found, labels, 7, top_k=5, average="micro"),
    }
    if not rounded:  # Of equal probabilities, torchmetrics chooses any.
        assert {name: scores[name] for name in expected} == pytest.approx({n: float(v) for n, v in expected.items()})


def test_a_class_without_samples_does_not_change_the_means() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    scores = ClassificationScores(probabilities, np.array([0, 1, 1]))
    assert scores.scores()["balanced_accuracy"] == 0.75
    assert scores.scores()["auroc"] == 1
    assert scores.per_class(["a", "b", "c"])["recall"] == [1, 0.5, None]


def test_wilson_and_the_bootstrap_cover_the_truth_as_often_as_they_promise() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # Newcombe, Statistics in Medicine 1998
    samples = np.random.default_rng(1).normal(size=(100, 60))
    draws = bootstrap_draws(lambda rows: dict(enumerate(samples[:, rows].mean(1))), 60)
    covered = sum(ends.low < 0 < ends.high for ends in percentile_intervals(draws).values())
    assert 88 <= covered <= 99
    assert (RESAMPLES, SEED) == (1000, 0)
