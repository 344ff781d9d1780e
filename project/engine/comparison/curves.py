"""The learning curves of runs in one picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mlflow import MlflowClient

from project.engine.comparison.runs import ComparedRun
from project.engine.tracking.leaderboard import shown_curves

_MOST_PANELS, _COLUMNS = 6, 2
_AXIS = "epoch"
_LONGEST_NAME = 50


def draw_curves(client: MlflowClient, runs: Sequence[ComparedRun]) -> Figure:
    """Draw the metrics of training that the leaderboard shows, each in a panel with one colour for each run.

    The solid line of a panel is the validation, a dashed one the training. The x axis is the epoch, if the runs
    recorded it.
    """
    metrics = sorted({name for run in runs for name in run.run.data.metrics})
    panels = shown_curves(metrics, [run.run for run in runs])[:_MOST_PANELS]
    rows = max(1, -(-len(panels) // _COLUMNS))
    figure = Figure(figsize=(6 * _COLUMNS, 3.2 * rows + 0.3 * len(runs)), layout="constrained")
    axis = _AXIS if _AXIS in metrics else "step"
    for place, names in enumerate(panels, 1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        axes.set_title(names[-1] + (f" (dashed: {names[0]})" if len(names) > 1 else ""))
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
        for number, run in enumerate(runs):
            for name in names:
                _draw(axes, client, run, name, f"C{number}", solid=name == names[-1])
    handles = [Line2D([], [], color=f"C{number}") for number in range(len(runs))]
    labels = [f"{run.label} {(run.run.info.run_name or '')[:_LONGEST_NAME]}" for run in runs]
    legend = figure.legend(handles, labels, loc="outside lower center")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, client: MlflowClient, run: ComparedRun, name: str, colour: str, *, solid: bool) -> None:
    """Draw the points of a metric; a step without an epoch is between those of its neighbours."""
    points = sorted((point.step, point.value) for point in client.get_metric_history(run.id, name))
    if not points:
        return
    steps, values = zip(*points, strict=True)
    epochs = sorted((point.step, point.value) for point in client.get_metric_history(run.id, _AXIS))
    places = np.interp(steps, [step for step, _ in epochs], [value for _, value in epochs]) if epochs else steps
    axes.plot(
        places, values, color=colour, linestyle="-" if solid else "--", alpha=1 if solid else 0.6,
        marker="." if len(points) == 1 else "",
    )  # fmt: skip
