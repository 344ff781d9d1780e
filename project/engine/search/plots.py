"""The interactive plots of a study, drawn by Optuna with plotly."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState
from optuna.visualization import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_pareto_front,
    plot_slice,
)


def plots(study: optuna.Study, metrics: Sequence[str]) -> list[Callable[[], Any]]:
    """Return functions that draw figures of plotly.

    Args:
        study: The study; it has complete trials.
        metrics: Its metrics; the first one is drawn over the trials and over the parameters.
    """
    target = {"target": lambda trial: trial.values[0]} if len(metrics) > 1 else {}
    of_first: list[Callable[..., Any]] = [plot_optimization_history, plot_parallel_coordinate, plot_slice]
    drawn: list[Callable[[], Any]] = [partial(plot, study, target_name=metrics[0], **target) for plot in of_first]
    if len(metrics) in (2, 3):
        drawn.append(partial(plot_pareto_front, study, target_names=list(metrics)))
    # Importances need two different values, and Optuna computes those of several metrics as if all were minimized.
    values = {trial.values[0] for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}
    if len(metrics) == 1 and len(values) > 1:
        drawn.append(partial(plot_param_importances, study, target_name=metrics[0]))
    return drawn
