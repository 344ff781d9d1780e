"""Commands as users type them, in processes forked from one that has the imports of all libraries.

Importing torch, Lightning and MLflow takes most of a short command's time. Each command imports the project itself.
`Command` has the part of `subprocess.Popen` that tests use. Tests of the start itself (the first import, `python -m`)
need `subprocess`.
"""

import faulthandler
import gc
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver, get_context, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn, TextIO

LIBRARIES = (
    "pytest", "commands", "attrs", "filelock", "fsspec.implementations.local", "git", "jsonargparse", "lightning",
    "lightning.pytorch.cli", "matplotlib.figure", "matplotlib.backends.backend_agg", "mlflow.pyfunc", "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.system_metrics.metrics.gpu_monitor", "optuna",
    "optuna.visualization.matplotlib", "psutil", "rich.progress", "scipy.special", "simplejpeg", "sklearn.datasets",
    "sklearn.model_selection", "sqlalchemy.dialects.sqlite", "torch._inductor.ir",
    "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "torch.export._trace",
    "torchmetrics.classification", "torchvision.datasets", "torchvision.models", "torchvision.transforms.v2",
)  # fmt: skip
_HERE = Path(__file__).parent


def free_port() -> int:
    """Return a port of loopback on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def fork_server() -> None:
    """Import the libraries, and fork the server of commands from this process.

    multiprocessing would start an interpreter for it, which would import the libraries again.
    """
    for name in LIBRARIES:
        import_module(name)
    resource_tracker.ensure_running()
    start, util.spawnv_passfds = util.spawnv_passfds, _fork  # type: ignore[attr-defined]
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = start  # type: ignore[attr-defined]


def _fork(executable: bytes, args: Sequence[str], kept: Sequence[int]) -> int:
    return os.fork() or _serve(args[-1], kept)


def _serve(code: str, kept: Sequence[int]) -> NoReturn:
    """Run the code of the server without what a new interpreter would not have: pytest's streams, files and imports."""
    try:
        faulthandler.disable()
        # Forked while the lock of the first is held; a command that starts its own server, such as a sweep, needs both.
        for state in (vars(forkserver)["_forkserver"], vars(resource_tracker)["_resource_tracker"]):
            state.__init__()
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_pytest")]
        for name in [path.name for path in Path("/proc/self/fd").iterdir()]:
            if int(name) > 2 and int(name) not in kept:
                with suppress(OSError):  # The file of the listing itself.
                    os.close(int(name))
        exec(code, {})
    finally:
        os._exit(1)


class Command:
    """A running `python -m MODULE ARGV`, or `python -c CODE ARGV`.

    Args:
        module: A module with an `if __name__ == "__main__"` block, or "-c" if the first option is code.
        argv: The options of the command.
        folder: Current folder of the command.
        environment: The whole environment of the command; `PYTHONPATH` selects the project that is run.
        new_session: Whether the command leads its own session, and therefore its own process group.

    Attributes:
        stdout: The output of the command, including standard error.
        returncode: The exit code, as in `subprocess`; None while the command runs.
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
        # Reading a FIFO without a writer returns its end. This writer keeps it open until the command has opened it.
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
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while the command runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command exits.

        Raises:
            subprocess.TimeoutExpired: The command still runs after `timeout` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Read the output until the command exits."""
        output = self.stdout.read()
        self.wait(timeout)
        return output, None

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the command has exited."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(
    module: str, argv: Sequence[str], folder: str, environment: dict[str, str], fifo: str, new_session: bool, ready: Any
) -> None:
    gc.freeze()  # The libraries' objects are left out of each garbage collection.
    gc.enable()  # The server was forked before pytest's process enabled it.
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
    # The project is last, as an installed package would be, so that a copy named by PYTHONPATH is imported.
    sys.path[:] = [folder, *paths, *(path for path in sys.path if path and path not in ours), str(_HERE.parent)]
    sys.argv = ["-m", *argv]
    for name in [name for name in sys.modules if re.match(r"(project|conftest|commands)(\.|$)", name)]:
        del sys.modules[name]
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
    if module == "-c":
        exec(argv[0], {"__name__": "__main__"})
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
