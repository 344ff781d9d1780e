"""Plots of a study: Optuna's interactive ones, and pictures of the same that are legible at any size.

The best trial is the darkest. The lightest colour is visible on white, unlike in Optuna's own plots.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import optuna
import optuna.visualization
import optuna.visualization.matplotlib
from matplotlib import colormaps, pyplot, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from project.engine.search.trials_table import parameter_names, short_names
from project.engine.tracking.names import short

_WIDTH, _DPI, _COLUMNS = 10.0, 160, 3
_LIGHTEST, _MANY_LETTERS = 0.88, 24

Plot = Callable[[], Any]


def interactive_plots(study: optuna.Study, metrics: Sequence[str]) -> dict[str, Plot]:
    """Return functions that draw figures of plotly, by name."""
    names = _wanted(study, metrics)
    return {name: partial(_interactive, study, metrics, function) for name, function in names.items()}


def pictures(study: optuna.Study, metrics: Sequence[str]) -> dict[str, Callable[[], Figure]]:
    """Return functions that draw figures of matplotlib, by name."""
    own = {"slice": slice_figure, "parallel_coordinates": parallel_figure}
    library = optuna.visualization.matplotlib
    return {
        name: partial(own[name], study, metrics[0])
        if name in own
        else partial(_picture, study, partial(getattr(library, function), **_arguments(study, metrics, function)))
        for name, function in _wanted(study, metrics).items()
    }


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw without formulas in a block of code, and undo what Optuna changes of the style."""
    # A dollar sign in a choice must not start a formula.
    with warnings.catch_warnings(), rc_context({"text.parse_math": False}):
        for category in (ExperimentalWarning, UserWarning):  # UserWarning: an axis has a single value
            warnings.simplefilter("ignore", category)
        yield


def slice_figure(study: optuna.Study, metric: str) -> Figure:
    """Draw the first value of each complete trial over each of its parameters."""
    trials, scales = _scales(study)
    rows = ceil(len(scales) / _COLUMNS)
    figure = Figure(figsize=(_WIDTH, 0.6 + 3.2 * rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, min(_COLUMNS, len(scales)), sharey=True, squeeze=False)
    values, numbers = [trial.values[0] for trial in trials], [trial.number for trial in trials]
    for axes, scale in zip(grid.flat, scales, strict=False):
        x = [scale.number(trial) for trial in trials]
        points = axes.scatter(x, values, c=numbers, cmap=_colours(darkest_is_high=True), edgecolors="black", lw=0.4)
        axes.set_xlabel(scale.label)
        axes.grid(alpha=0.3)
        scale.set_on(axes)
    for axes in grid.flat[len(scales) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric)
    figure.colorbar(points, ax=grid, label="trial", ticks=_whole(numbers))
    return figure


def parallel_figure(study: optuna.Study, metric: str) -> Figure:
    """Draw each complete trial as a line through its first value and its parameters."""
    trials, scales = _scales(study)
    maximize = study.directions[0].name == "MAXIMIZE"
    trials.sort(key=lambda trial: trial.values[0], reverse=not maximize)  # The best line is above the others.
    values = [trial.values[0] for trial in trials]
    scales = [_Scale(metric, min(values), max(values)), *scales]
    figure = Figure(figsize=(_WIDTH, 5.5), dpi=_DPI, layout="constrained")
    axes: Axes = figure.subplots()
    colours = _colours(darkest_is_high=maximize)
    for trial in trials:
        ys = [scales[0].position(trial.values[0]), *(scale.position(scale.number(trial)) for scale in scales[1:])]
        axes.plot(range(len(ys)), ys, color=colours(ys[0]), lw=3 if trial is trials[-1] else 1.4)
    for x, scale in enumerate(scales):
        axes.axvline(x, color="black", lw=0.8)
        for number, text in scale.ticks(count=5).items():
            box = {"facecolor": "white", "alpha": 0.75, "pad": 0.8, "lw": 0}
            axes.text(x + 0.03, scale.position(number), text, fontsize=8, va="center", bbox=box, zorder=3)
    axes.set(xlim=(-0.05, len(scales) - 0.4), ylim=(-0.04, 1.04), yticks=[], title=f"best: trial {trials[-1].number}")
    axes.set_xticks(range(len(scales)), [scale.label for scale in scales], rotation=20, ha="right")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@dataclass(frozen=True)
class _Scale:
    label: str
    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False
    name: str = ""
    choices: tuple[Any, ...] = ()

    def number(self, trial: FrozenTrial) -> float:
        value = trial.params[self.name]
        return float(self.choices.index(value) if self.choices else value)

    def position(self, number: float) -> float:
        """Map a number to [0, 1]."""
        low, high, at = np.log([self.low, self.high, number]) if self.is_log else (self.low, self.high, number)
        return float((at - low) / (high - low)) if high > low else 0.5

    def ticks(self, count: int) -> dict[float, str]:
        """Return numbers at equal distances, and their labels."""
        if self.choices:
            return {place: _cut(short(choice)) for place, choice in enumerate(self.choices)}
        spaced = np.geomspace if self.is_log else np.linspace
        numbers = spaced(self.low, self.high, count).tolist()
        return {
            number: short(number) for number in ({round(number) for number in numbers} if self.is_whole else numbers)
        }

    def set_on(self, axes: Axes) -> None:
        """Set the scale, the ticks and their labels on the horizontal axis."""
        ticks = self.ticks(count=3)
        if self.is_log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        is_wide = max(map(len, ticks.values())) * len(ticks) > _MANY_LETTERS
        axes.set_xticks(list(ticks), list(ticks.values()), rotation=25 * is_wide, ha="right" if is_wide else "center")
        if self.choices:
            axes.set_xlim(-0.4, len(ticks) - 0.6)


def _scales(study: optuna.Study) -> tuple[list[FrozenTrial], list[_Scale]]:
    """Return the complete trials, and a scale for each of their parameters."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    names = [name for name in parameter_names(trials) if all(name in trial.params for trial in trials)]
    scales = []
    for name, label in zip(names, short_names(names), strict=True):
        distribution: Any = trials[-1].distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            scales.append(_Scale(label, 0, len(choices) - 1, name=name, choices=choices))
        else:
            numbers, is_whole = (
                [float(trial.params[name]) for trial in trials],
                isinstance(distribution, IntDistribution),
            )
            scales.append(_Scale(label, min(numbers), max(numbers), distribution.log, is_whole, name))
    return trials, scales


def _cut(text: str) -> str:
    return text if len(text) <= _MANY_LETTERS else f"{text[:_MANY_LETTERS]}…"


def _whole(numbers: Sequence[int]) -> list[int]:
    """Return at most six whole numbers from the least to the greatest."""
    low, high = min(numbers), max(numbers)
    return list(range(low, high + 1, max(1, ceil((high - low) / 5))))


def _colours(*, darkest_is_high: bool) -> Colormap:
    shades = colormaps["viridis"](np.linspace(0, _LIGHTEST, 256))
    return ListedColormap(shades[::-1] if darkest_is_high else shades)


def _wanted(study: optuna.Study, metrics: Sequence[str]) -> dict[str, str]:
    """Return the plots of the study by name, with Optuna's functions; without those that need more trials."""
    wanted = {
        "history": "plot_optimization_history",
        "parallel_coordinates": "plot_parallel_coordinate",
        "slice": "plot_slice",
    }
    if len({trial.values[0] for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}) > 1:
        wanted["importances"] = "plot_param_importances"
    if len(metrics) in (2, 3):
        wanted["pareto_front"] = "plot_pareto_front"
    return wanted


def _arguments(study: optuna.Study, metrics: Sequence[str], function: str) -> dict[str, Any]:
    if function == "plot_pareto_front":
        return {"target_names": list(metrics)}
    target = {"target": lambda trial: trial.values[0]} if len(study.directions) > 1 else {}
    return {"target_name": metrics[0], **target}


def _interactive(study: optuna.Study, metrics: Sequence[str], function: str) -> Any:
    figure = getattr(optuna.visualization, function)(study, **_arguments(study, metrics, function))
    figure.update_layout(template="plotly_white")
    figure.update_annotations(bgcolor="rgba(255, 255, 255, 0.75)")  # Labels on lines are legible.
    figure.update_xaxes(exponentformat="e")  # Otherwise 0.0001 is 100µ.
    is_parallel = function == "plot_parallel_coordinate"
    darkest_is_high = not is_parallel or study.directions[0].name == "MAXIMIZE"
    shades = _colours(darkest_is_high=darkest_is_high)
    for trace in figure.data:
        if is_parallel and trace.mode == "lines":
            trace.update(line={"color": to_hex(shades(float(trace.y[0]))), "width": 2}, opacity=0.8)
        elif trace.type == "scatter" and trace.marker.colorscale:
            scale = [[at, to_hex(shades(float(at)))] for at in np.linspace(0, 1, 9)]
            trace.marker.update(colorscale=scale, reversescale=False)
    if is_parallel:  # The best line is above the others.
        figure.data = sorted(figure.data, key=lambda trace: trace.y[0] or 0, reverse=not darkest_is_high)
    return figure


def _picture(study: optuna.Study, plot: Callable[[optuna.Study], Any]) -> Figure:
    axes = plot(study)
    figure = (axes if isinstance(axes, Axes) else axes.flat[0]).figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(_WIDTH, 6)
    figure.set_dpi(_DPI)
    pyplot.close(figure)  # Otherwise pyplot keeps it until the process ends.
    return figure
