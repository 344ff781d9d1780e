"""Commands as users type them, in processes forked from one that has the imports of all libraries.

Importing torch, Lightning and MLflow takes most of a short command's time. `Command` has the part of
`subprocess.Popen` that tests use; the project itself is imported by each command. What is tested about the start
itself (the first import, what `python -m` does) needs `subprocess`.
"""

import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any, TextIO

import torch

LIBRARIES = (
    "pytest", "commands", "attrs", "filelock", "fsspec.implementations.local", "git", "jsonargparse", "lightning",
    "lightning.pytorch.cli", "matplotlib.figure", "matplotlib.backends.backend_agg", "mlflow.pyfunc", "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.system_metrics.metrics.gpu_monitor", "optuna",
    "optuna.visualization.matplotlib", "psutil", "rich.progress", "scipy.special", "simplejpeg", "sklearn.datasets",
    "sklearn.model_selection", "sqlalchemy.dialects.sqlite", "torch.distributed.fsdp", "torch.export._trace",
    "torchmetrics.classification", "torchvision.datasets", "torchvision.models", "torchvision.transforms.v2",
)  # fmt: skip
_HERE = Path(__file__).parent


def free_port() -> int:
    """A port of loopback on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Command:
    """A running `python -m MODULE ARGV`, or `python -c CODE ARGV`.

    Args:
        module: Has an `if __name__ == "__main__"` block; "-c" if the first of the options is code.
        argv: Its options.
        folder: Current folder of the command.
        environment: All of its environment; `PYTHONPATH` says which project is run.
        new_session: Whether it leads a session, and so a process group, of its own.

    Attributes:
        stdout: What it prints, standard error included.
        returncode: As `subprocess` has it; None while it runs.
    """

    def __init__(
        self, module: str, *argv: str, folder: Path, environment: Mapping[str, str], new_session: bool = False
    ) -> None:
        forkserver.set_forkserver_preload(list(LIBRARIES))
        self._folder = tempfile.TemporaryDirectory()
        fifo = f"{self._folder.name}/output"
        os.mkfifo(fifo)
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reading, True)
        # A FIFO without a writer is at its end; this writer is closed when the command has opened it.
        writing = os.open(fifo, os.O_WRONLY)
        ours, theirs = get_context("forkserver").Pipe(duplex=False)
        self._process = get_context("forkserver").Process(
            target=_run, args=(module, argv, str(folder), dict(environment), fifo, new_session, theirs)
        )
        self._process.start()
        theirs.close()
        ours.poll(60)
        os.close(writing)
        self.stdout: TextIO = os.fdopen(reading, encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Read what it prints until its end."""
        output = self.stdout.read()
        self.wait(timeout)
        return output, None

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(
    module: str, argv: Sequence[str], folder: str, environment: dict[str, str], fifo: str, new_session: bool, ready: Any
) -> None:
    output = os.open(fifo, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    ready.send(True)
    ready.close()
    if new_session:
        os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    ours = {str(_HERE), str(_HERE.parent)}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # The project is last, as an installed one would be: a copy that PYTHONPATH names wins.
    sys.path[:] = [folder, *paths, *(path for path in sys.path if path and path not in ours), str(_HERE.parent)]
    sys.argv = ["-m", *argv]
    for name in [name for name in sys.modules if re.match(r"(project|conftest|commands)(\.|$)", name)]:
        del sys.modules[name]
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
    if module == "-c":
        exec(argv[0], {"__name__": "__main__"})
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
