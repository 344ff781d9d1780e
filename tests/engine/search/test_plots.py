"""The plots of a study."""

import warnings

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from project.engine.search.plots import plots

RANGES: dict[str, BaseDistribution] = {
    "model.loss": CategoricalDistribution([None, "$_x_$_y"]),
    "model.optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "data.batch_size": IntDistribution(1, 64),
}


@pytest.mark.parametrize("metrics", [["val/accuracy"], ["val/accuracy", "val/loss"]], ids=len)
@pytest.mark.parametrize("trials", [1, 4])
def test_each_plot_of_a_study_is_drawn_without_a_warning(metrics: list[str], trials: int) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"][: len(metrics)])
    for n in range(trials):
        params = dict(zip(RANGES, [[None, "$_x_$_y"][n % 2], 10.0 ** (-n - 1), n + 1], strict=True))
        study.add_trial(create_trial(values=[n / 10] * len(metrics), params=params, distributions=RANGES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = [draw().to_html(full_html=False, include_plotlyjs=False) for draw in plots(study, metrics)]
    assert len(pages) == (4 if len(metrics) > 1 or trials > 1 else 3)
    assert all("val/accuracy" in page.replace("\\u002f", "/") for page in pages)
