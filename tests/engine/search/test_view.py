"""The progress of a sweep in the terminal."""

from io import StringIO

import optuna
from optuna.trial import create_trial
from rich.console import Console

from project.engine.search.view import View


def test_the_time_left_counts_from_the_start_of_the_sweep() -> None:
    now = [0.0]
    study = optuna.create_study()
    study.add_trial(create_trial(value=0.1))  # of an earlier sweep
    console = Console(file=StringIO(), force_terminal=True, get_time=lambda: now[0])
    with View(study, ["loss"], 11, console) as view:
        for now[0] in (60.0, 62.0):  # Two trials that ran at the same time.
            study.add_trial(create_trial(value=0.2))
            view.update()
        (task,) = view._bar.tasks
        assert task.time_remaining == 8 * 31
