"""What a rehearsal needs for modules that log by themselves: a logger that writes nothing, and an end of their runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from lightning.pytorch.loggers.logger import DummyLogger
from typing_extensions import override


class SilentLogger(DummyLogger):
    """A logger that writes nothing, and whose folder takes the files of a module.

    Args:
        folder: The folder, which a module finds as `trainer.log_dir`.
    """

    def __init__(self, folder: str | None) -> None:
        super().__init__()
        self._folder = folder

    @property
    @override
    def save_dir(self) -> str | None:
        return self._folder


@contextmanager
def own_runs_ended(status: str) -> Iterator[None]:
    """End the runs that a module starts by MLflow's functions in the block; it could not start the next one."""
    before = mlflow.active_run()
    try:
        yield
    finally:
        while (run := mlflow.active_run()) is not None and run is not before:
            mlflow.end_run(status)
