"""Messages between a sweep and the processes of its trials."""

from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class RunStarted:
    """The trial has an MLflow run."""

    run_id: str


@dataclass(frozen=True)
class Report:
    """The first metric of the study after a validation; `step` is the number of the validation, from 0."""

    step: int
    value: float


@dataclass(frozen=True)
class Done:
    """The training has ended, with a value for each metric of the study; None if the process does not know it."""

    values: list[float | None]


@dataclass(frozen=True)
class Pruned:
    """The training was stopped by `Prune`."""


@dataclass(frozen=True)
class Stopped:
    """The training was stopped by `Stop` or by a signal."""


@dataclass(frozen=True)
class Failed:
    """The training ended with an error."""

    reason: str


@dataclass(frozen=True)
class Prune:
    """The trial must stop, because its values are worse than those of others."""


@dataclass(frozen=True)
class Stop:
    """The trial must stop, so that a later sweep can resume it."""


Outcome = Done | Pruned | Stopped | Failed
FromTrial = RunStarted | Report | Outcome
ToTrial = Prune | Stop


def send(connection: Connection, message: FromTrial | ToTrial) -> None:
    """Send a message, unless the process at the other end has ended. Its end is noticed where messages are received."""
    with suppress(OSError):
        connection.send(message)
