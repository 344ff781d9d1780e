"""A trial's process: forked from a server that has the imports already, it runs `fit` with the trial's settings."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from project.engine.runtime.output import prepare_output
from project.engine.search.reporter import Reporter
from project.engine.tracking.secrets import redact


@dataclass(frozen=True)
class Assignment:
    """What a trial's process is given.

    Attributes:
        module: Its `main(argv, callbacks)` is called, as `python -m MODULE ARGV` would.
        argv: Options, the trial's among them.
        metrics: The study's metrics.
        environment: Variables for this process and those it starts.
        threads: Threads of each process of the trial on the CPU.
        log: File for what it prints.
    """

    module: str
    argv: list[str]
    metrics: Sequence[str]
    environment: dict[str, str]
    threads: int
    log: Path


def run_trial(connection: Connection, work: Assignment) -> None:
    """Train, and say how it ended: done with values, pruned, stopped, or failed with a reason."""
    os.setsid()  # Ctrl-C in the terminal is for the sweep, which decides
    _print_to(work.log)
    prepare_output()
    os.environ.update(work.environment, OMP_NUM_THREADS=str(work.threads))
    torch.set_num_threads(work.threads)
    _appear_as(work.module, work.argv)
    reporter = Reporter(connection, work.metrics)
    reporter.listen()
    try:
        importlib.import_module(work.module).main(work.argv, [reporter])
    except SystemExit as end:
        if reporter.pruned:
            print("pruned by the study", file=sys.stderr)
        ends = {0: ("done", reporter.values()), 143: ("pruned",) if reporter.pruned else ("stopped",)}
        _say(connection, ends.get(int(end.code or 0), ("failed", f"exit code {end.code}: {_last_line(work.log)}")))
    except BaseException as error:
        print(redact(traceback.format_exc()), file=sys.stderr)
        _say(connection, ("failed", redact(f"{type(error).__name__}: {' '.join(str(error).split())}")))
        raise SystemExit(1) from error
    else:
        _say(connection, ("done", reporter.values()))


def _say(connection: Connection, message: tuple[object, ...]) -> None:
    with suppress(OSError):  # the sweep is no more; the next one asks the run
        connection.send(message)


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _appear_as(module: str, argv: Sequence[str]) -> None:
    """Lightning starts the other processes of a trial with this one's command line."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    sys.modules["__main__"].__spec__ = spec
    sys.argv = [str(spec.origin), *argv]


def _last_line(log: Path) -> str:
    sys.stderr.flush()
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
