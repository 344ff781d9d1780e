"""The plots of a study are legible."""

from itertools import pairwise
from typing import Any

import optuna
import pytest
from matplotlib.colors import to_rgb
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from project.engine.search.plots import interactive_plots, pictures, plain_style

RANGES: dict[str, BaseDistribution] = {
    "model.net": CategoricalDistribution(
        ["torch.nn.Identity", "torch.nn.CrossEntropyLoss", "torch.nn.MultiMarginLoss"]
    ),
    "model.loss": CategoricalDistribution([None, "$_x_$_y"]),
    "model.optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "data.batch_size": IntDistribution(1, 64),
}


@pytest.fixture(params=["maximize", "minimize"])
def study(request: pytest.FixtureRequest) -> optuna.Study:
    study = optuna.create_study(direction=request.param)
    for n in range(6):
        values: list[Any] = [RANGES["model.net"].choices[n % 3], [None, "$_x_$_y"][n % 2], 10 ** (n / 2 - 4), n + 1]
        params = dict(zip(RANGES, values, strict=True))
        study.add_trial(create_trial(value=n / 10, params=params, distributions=RANGES))
    return study


def test_tick_labels_do_not_overlap_and_are_no_formulas(study: optuna.Study) -> None:
    for name in ("slice", "history", "importances"):
        with plain_style():
            figure = pictures(study, ["val/accuracy"])[name]()
            figure.canvas.draw()
            for axes in figure.axes:
                labels = [label for label in axes.get_xticklabels() if label.get_text() and label.get_rotation() == 0]
                boxes = [label.get_window_extent() for label in labels]
                assert not [1 for one, next_ in pairwise(boxes) if one.x1 > next_.x0], name
                assert "mathdefault" not in "".join(label.get_text() for label in axes.get_xticklabels())


def test_no_trial_is_white_and_the_best_is_the_darkest(study: optuna.Study) -> None:
    with plain_style():
        lines = pictures(study, ["val/accuracy"])["parallel_coordinates"]().axes[0].lines[:6]
        traces = [
            one
            for one in interactive_plots(study, ["val/accuracy"])["parallel_coordinates"]().data
            if one.mode == "lines"
        ]
    for colours in ([to_rgb(line.get_color()) for line in lines], [to_rgb(trace.line.color) for trace in traces]):
        assert len(colours) == 6
        assert max(min(colour) for colour in colours) < 0.5  # The least saturated of them differs from white.
        darkness = [sum(colour) for colour in colours]
        assert darkness.index(min(darkness)) == 5  # The best is drawn last, above the others.
