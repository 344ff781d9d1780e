"""The run of a cell: `project.fit` in a process forked from one that has the libraries, or `project.sweep`."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from benchmarks.concurrency.cells import Cell
from benchmarks.concurrency.measure import Measure, of_fit, of_sweep
from project.engine.runtime.devices import usable_cores
from project.engine.search.messages import Done, FromTrial, RunStarted
from project.engine.search.worker import run_trial
from project.engine.tracking import experiments, store
from project.sweep import main as sweep

EXPERIMENT, CELL, ROUND, BATCH = "concurrency", "concurrency.cell", "concurrency.round", 64


@dataclass(frozen=True)
class Work:
    """What all cells do.

    Attributes:
        options: Options of `project.fit`, without the batch size.
        trials: Number of trials of a sweep.
        accuracy: The accuracy to reach, in [0, 1].
        token: A word that this benchmark's studies begin with.
        logs: Folder for the output of the runs.
    """

    options: Sequence[str]
    trials: int
    accuracy: float
    token: str
    logs: Path

    def of(self, cell: Cell) -> list[str]:
        """Return the options of a cell. All cells have the same number of images in a step of all processes."""
        callback = f"{Measure.__module__}.{Measure.__qualname__}"
        measure = [f"--trainer.callbacks+={callback}", f"--trainer.callbacks.accuracy={self.accuracy}"]
        return [*self.options, *measure, f"--data.batch_size={BATCH // cell.processes}", *cell.options]


def run(cell: Cell, work: Work, number: int) -> dict[str, float]:
    """Train as a cell does, and return its measurements.

    Args:
        cell: The cell.
        work: What all cells do.
        number: Number of the round, from 1.

    Raises:
        RuntimeError: It failed; the message names the file with its output.
    """
    tags = {"mlflow.runName": f"{cell.name} ({number})", CELL: cell.name, ROUND: str(number)}
    environment = {"MLFLOW_RUN_CONTEXT": json.dumps(tags)}
    log = work.logs / f"{cell.name.replace(', ', '-').replace(' ', '-')}-{number}.log"
    log.unlink(missing_ok=True)
    return (_sweep if cell.jobs else _fit)(cell, work, environment, log)


def _fit(cell: Cell, work: Work, environment: Mapping[str, str], log: Path) -> dict[str, float]:
    environment = {**os.environ, **environment, "MLFLOW_TRACKING_URI": store.tracking_uri()}
    threads = max(1, usable_cores() // cell.processes)
    context = get_context("forkserver")
    ours, theirs = context.Pipe()
    fit = partial(
        run_trial, theirs,
        module="project.fit", argv=work.of(cell), metrics=["val/accuracy"], environment=environment, threads=threads,
        log=log,
    )  # fmt: skip
    process = context.Process(target=fit)
    process.start()
    theirs.close()
    messages: list[FromTrial] = []
    with suppress(EOFError):
        while True:
            messages.append(ours.recv())
    process.join()
    started = [message.run_id for message in messages if isinstance(message, RunStarted)]
    if not any(isinstance(message, Done) for message in messages) or not started:
        raise RuntimeError(f"{cell.name} failed; its output is in {log}")
    return of_fit(store.connect().get_run(started[0]))


def _sweep(cell: Cell, work: Work, environment: Mapping[str, str], log: Path) -> dict[str, float]:
    study = f"{work.token}-{log.stem}"
    options = ["--search=seeds", f"--study={study}", f"--n_trials={work.trials}", f"--n_jobs={cell.jobs}"]
    code: object = 0
    with log.open("w") as output, redirect_stdout(output), redirect_stderr(output), set_environment(environment):
        try:
            sweep([*options, *work.of(cell)])
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(f"{cell.name} failed; its output is in {log} and mlruns/sweeps/{study}")
    client = store.connect()
    runs = client.search_runs([experiments.experiment_id(client, EXPERIMENT)], f"tags.study = '{study}'")
    return of_sweep(client, [run for run in runs if MLFLOW_PARENT_RUN_ID in run.data.tags], cell.jobs)


@contextmanager
def set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block of code, and for the processes that it starts."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
