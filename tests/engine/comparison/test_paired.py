"""Paired tests: p-values that were computed by hand, and the rate of false alarms."""

import numpy as np
import pytest

from project.engine.comparison.paired import holm, mcnemar, paired_bootstrap
from project.engine.evaluation import bootstrap_draws


@pytest.mark.parametrize(("only_first", "only_second", "p_value"), [
    (0, 0, 1.0),
    (3, 3, 1.0),
    (5, 0, 2 / 2**5),
    (1, 8, 2 * (1 + 9) / 2**9),
    (10, 2, 2 * (1 + 12 + 66) / 2**12),
])  # fmt: skip
def test_mcnemar_counts_the_samples_that_one_run_alone_gets_right(
    only_first: int, only_second: int, p_value: float
) -> None:
    kinds = [(True, True)] * 50 + [(False, False)] * 7 + [(True, False)] * only_first + [(False, True)] * only_second
    first, second = np.array(kinds).T
    assert mcnemar(first, second) == pytest.approx(p_value)


def test_the_bootstrap_pairs_the_samples() -> None:
    noise = np.random.default_rng(0).normal(size=50)
    draws = [
        bootstrap_draws(lambda rows, gap=gap: {"mean": (noise + gap)[rows].mean()}, 50)["mean"] for gap in (0, 0.1)
    ]
    assert paired_bootstrap(draws[0], draws[0]) == 1
    # The gap is a tenth of the noise: only a test of pairs finds it.
    assert paired_bootstrap(draws[0], draws[1]) == pytest.approx(2 / 1001)
    assert paired_bootstrap(draws[0], draws[1][:100]) == pytest.approx(2 / 101)  # The first resamples are the same.
    assert paired_bootstrap(np.array([np.nan, 1.0]), np.array([0.0, 1.0])) == 1


def test_noise_is_rarely_considered_a_difference() -> None:
    random = np.random.default_rng(1)
    common, one, other = random.normal(size=(200, 3, 80)).transpose(1, 0, 2)
    pairs = np.stack([common + one, common + other], axis=1)
    draws = bootstrap_draws(lambda rows: dict(enumerate(pairs[..., rows].mean(-1).ravel())), 80)
    alarms = sum(paired_bootstrap(draws[place], draws[place + 1]) < 0.05 for place in range(0, 400, 2))
    assert 2 <= alarms <= 20  # of 200, 10 are expected


def test_holm_corrects_the_smallest_p_value_most() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
