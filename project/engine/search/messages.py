"""Messages between a sweep and the processes of its trials."""

from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class RunStarted:
    """The id of the trial's MLflow run."""

    run_id: str


@dataclass(frozen=True)
class Report:
    """The first metric of the study after a validation, or an epoch."""

    value: float


@dataclass(frozen=True)
class Done:
    """The end of a training, with a value for each metric of the study; None if the sweep must read it from the run."""

    values: list[float | None]


@dataclass(frozen=True)
class Pruned:
    """The end of a training that `Prune` stopped."""


@dataclass(frozen=True)
class Stopped:
    """The end of a training that `Stop` or a signal stopped."""


@dataclass(frozen=True)
class Failed:
    """The end of a training that failed."""

    reason: str


@dataclass(frozen=True)
class Prune:
    """A request to stop, because the values are worse than those of other trials."""


@dataclass(frozen=True)
class Stop:
    """A request to stop, so that a later sweep can resume the trial."""


Outcome = Done | Pruned | Stopped | Failed
FromTrial = RunStarted | Report | Outcome
ToTrial = Prune | Stop


def send(connection: Connection, message: FromTrial | ToTrial) -> None:
    """Send a message, unless the process at the other end has ended. The receiver of messages notices that end."""
    with suppress(OSError):
        connection.send(message)
