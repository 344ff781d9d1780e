"""The tags of a run that several modules read or write."""

from collections.abc import Mapping

from mlflow.entities import Run

COMMAND, RESUMED = "command", "resumed"
"""The commands that have started and continued the run."""
CHANGED = f"{RESUMED}."
"""Start of the settings that a resumed run has changed, because MLflow parameters are immutable."""
MONITOR = "monitor"
"""The metric that selects the best checkpoint, and its mode, such as `val/loss (min)`."""
DEVICES = "devices"
"""Number and kind of the devices."""
COMMIT, DIRTY = "git.commit", "git.dirty"
"""The commit, and whether the code has uncommitted changes, `true` or `false`."""
STUDY, TRIAL = "study", "trial"
"""Of the run of a trial: name of its study, and its number. The run of a study has its name."""
STATE = "state"
"""Of the run of a trial: complete, pruned or failed. MLflow has one status for a pruned and an interrupted run."""
BEST_RUN, PARETO_TRIALS = "best.run", "pareto.trials"
"""Of the run of a study: the run of the best trial, or the numbers of the trials on the Pareto front."""


def monitored(tags: Mapping[str, str]) -> tuple[str, str]:
    """Return the monitored metric of a run, and `min` or `max`; two empty texts if no metric is monitored."""
    metric, _, mode = tags.get(MONITOR, "").rpartition(" ")
    return metric, mode.strip("()")


def current_settings(run: Run) -> dict[str, str]:
    """Return the settings of a run by their dotted names, with those that it has changed when it was resumed."""
    changed = {key.removeprefix(CHANGED): text for key, text in run.data.tags.items() if key.startswith(CHANGED)}
    return {**run.data.params, **changed}
