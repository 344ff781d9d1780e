"""A trained run: its settings and its best checkpoint."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import Run

from project.engine.checkpoints.durable import read_valid
from project.engine.checkpoints.newest import best_checkpoint
from project.engine.data import DECODING, GIVEN_BY_DATA
from project.engine.tracking import experiments, store
from project.engine.tracking.recovery import RECOVERED, recover_all
from project.engine.tracking.run_reference import find
from project.engine.tracking.tags import monitored

_CHILDREN_USE = "PROJECT_TRAINED_RUN"
"""Set for the processes that Lightning starts: `latest` may meanwhile be another run."""


class TrainedRun(NamedTuple):
    """A run whose training has ended, in values that JSON can hold.

    Attributes:
        run_id: The MLflow run.
        reason: Why the reference means this run; empty if its id was given.
        status: Status of the run.
        end_time: When it ended, in milliseconds since 1970.
        settings: Its settings as YAML.
        checkpoint: Path of its best checkpoint; without a monitored metric, of its last one.
        step: Optimizer steps before the checkpoint.
        given_by_data: Arguments of its model that came from the data, by name; empty if the checkpoint has none.
        decoding: How the files of its data were decoded.
    """

    run_id: str
    reason: str
    status: str
    end_time: int
    settings: str
    checkpoint: str
    step: int
    given_by_data: dict[str, Any]
    decoding: dict[str, Any]

    def line(self) -> str:
        """Return a line for the terminal that names the run and its checkpoint."""
        why = f" ({self.reason})" if self.reason else ""
        status = "" if self.status == "FINISHED" else f", whose training is {self.status}"
        return f"run {self.run_id}{why}{status}: {self.checkpoint}"


def find_trained_run(reference: str) -> TrainedRun:
    """Find a run by its reference; see `project.engine.tracking.run_reference`.

    Raises:
        ValueError: The run does not exist, is still running, or was not made by `fit`.
        OSError: It has no valid checkpoint here.
    """
    reference = os.environ.get(_CHILDREN_USE, reference)
    client = store.connect_existing(reference)
    if RECOVERED not in os.environ and _CHILDREN_USE not in os.environ:
        recover_all(client)
    run, reason = find(client, reference)
    run_id, status = run.info.run_id, run.info.status
    if status == "RUNNING":
        raise ValueError(f"run {run_id} is still running; wait for its end, or stop it")
    settings = experiments.settings_of(run_id)
    checkpoint = _checkpoint_of(run)
    state = read_valid(checkpoint)
    if state is None:
        raise OSError(f"run {run_id}: {checkpoint} is damaged or contains code; restore it from a copy")
    os.environ[_CHILDREN_USE] = run_id
    given, step = state.get(GIVEN_BY_DATA, {}), state["global_step"]
    decoding = state.get(DECODING, {})
    return TrainedRun(run_id, reason, status, run.info.end_time, settings, str(checkpoint), step, given, decoding)


def _checkpoint_of(run: Run) -> Path:
    run_id, (monitor, _) = run.info.run_id, monitored(run.data.tags)
    folder = store.checkpoint_folder(run_id)
    if (found := best_checkpoint(folder, monitored=bool(monitor))) is not None:
        return found
    kind = "best checkpoint" if monitor else "checkpoint"
    if run.info.status == "FINISHED":
        remedy = "; start from the folder and the machine of the run, or train again"
    else:
        remedy = f", because it is {run.info.status}: resume it, or train again"
    raise FileNotFoundError(f"run {run_id} has no {kind} in {folder.absolute()}{remedy}")
