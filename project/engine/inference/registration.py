"""The registration of a run at the end of its training: an evaluation, as by `project.evaluate --register`."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from project.engine.cli.errors import BAD_INPUT
from project.engine.inference.evaluation_job import open_evaluation
from project.engine.runtime.launcher import SLURM, TORCHRUN

ONE_DEVICE = ("--strategy=single", "--devices=1", "--trainer.num_nodes=1")
"""Options of an evaluation in one process, because the other processes of the fit end."""


def register_trained(run_id: str, name: str, options: Sequence[str] = ()) -> None:
    """Evaluate a run that has ended, and register its model.

    Args:
        run_id: The run.
        name: Name of the registered model.
        options: Options of the evaluation.

    Raises:
        SystemExit: 1 if it cannot be registered; 130 or 143 if this process is interrupted.
    """
    command = f"python -m project.evaluate {run_id} --register {shlex.quote(name)}"
    argv = [run_id, f"--register={name}", *options]
    with _explained(command), _without_launcher(), open_evaluation(argv) as job:
        job.complete()


@contextmanager
def _explained(command: str) -> Iterator[None]:
    """Print the command that registers the run later, unless the block succeeds."""
    try:
        yield
    except BaseException as error:
        print(f"the run is trained, but not registered; register it with: {command}", file=sys.stderr, flush=True)
        if isinstance(error, SystemExit) and error.code == BAD_INPUT:
            raise SystemExit(1) from error
        raise


@contextmanager
def _without_launcher() -> Iterator[None]:
    """Hide the launcher from this process, because the other processes take no part."""
    hidden = {name: os.environ.pop(name) for name in (TORCHRUN, SLURM) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
