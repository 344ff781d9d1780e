"""The work of a trial's process: it runs `fit` with the trial's settings and reports the result."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from project.engine.runtime.launcher import SLURM
from project.engine.runtime.process import configure_process
from project.engine.search.messages import Done, Failed, Outcome, Pruned, Stopped, send
from project.engine.search.reporter import Reporter
from project.engine.tracking.secrets import redact


def run_trial(
    connection: Connection, *, module: str, argv: Sequence[str], metrics: Sequence[str],
    environment: Mapping[str, str], threads: int, log: Path,
) -> None:  # fmt: skip
    """Train, and send the outcome to the sweep.

    Args:
        connection: Pipe to the sweep.
        module: Its `main(argv, callbacks)` is called, like `python -m MODULE ARGV`.
        argv: Options, including those of the trial.
        metrics: The study's metrics.
        environment: Variables for this process and those that it starts.
        threads: Number of CPU threads of each process of the trial.
        log: File for the output.
    """
    os.setsid()  # Ctrl-C in the terminal is a signal to the sweep alone, which decides what its trials do.
    _redirect_output(log)
    configure_process()
    os.environ.update(environment, OMP_NUM_THREADS=str(threads))
    os.environ.pop("MASTER_PORT", None)  # Only one trial could use it; the processes of each choose a free port.
    os.environ.pop(SLURM, None)  # This process starts the others of its trial.
    torch.set_num_threads(threads)
    _set_command_line(module, argv)
    reporter = Reporter(connection, metrics)
    reporter.start_receiving()
    try:
        importlib.import_module(module).main(argv, [reporter])
    except SystemExit as end:
        if isinstance(end.code, str):  # Python prints the text, and exits with 1.
            print(end.code, file=sys.stderr)
        code = 1 if isinstance(end.code, str) else end.code or 0
        send(connection, _outcome_of_exit(code, reporter, log))
    except BaseException as error:
        print(redact(traceback.format_exc()), file=sys.stderr)
        send(connection, Failed(redact(f"{type(error).__name__}: {' '.join(str(error).split())}")))
        raise SystemExit(1) from error
    else:
        send(connection, Done(reporter.values()))


def _outcome_of_exit(code: int, reporter: Reporter, log: Path) -> Outcome:
    if reporter.pruned:
        print("pruned by the study", file=sys.stderr)
    if code == 0:
        return Done(reporter.values())
    if code == 143:
        return Pruned() if reporter.pruned else Stopped()
    sys.stderr.flush()
    lines = log.read_text(errors="replace").strip().splitlines()
    return Failed(f"exit code {code}: {lines[-1] if lines else 'there is no output'}")


def _redirect_output(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _set_command_line(module: str, argv: Sequence[str]) -> None:
    """Set the command line of this process, with which Lightning starts the other processes of a trial."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    sys.modules["__main__"].__spec__ = spec
    sys.argv = [str(spec.origin), *argv]
