"""Servers on loopback, which can be killed and started again on the same port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from commands import free_port
from conftest import clean_environment


class Server:
    """A command that serves HTTP on one port of loopback, in its own process group.

    Args:
        command: The arguments after `python -m`; `--port` is added.
        folder: Current folder of the command.
        environment: Variables that are added to the command's environment.

    Attributes:
        uri: The address of the server, which stays the same after a restart.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", *command, "--port", str(self._port), "--workers", "1"]
        self._environment = clean_environment() | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, cwd=self.folder, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", self._port)) != 0:
                assert self._process.poll() is None, f"{self._command} ended before it listened"
                time.sleep(0.1)

    def stop(self, signum: signal.Signals) -> None:
        """Send a signal to all processes of the server."""
        os.killpg(self.pid, signum)

    def kill(self) -> None:
        """Kill all processes of the server, if it runs."""
        if self._process is not None:
            self.stop(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def serving(*command: str, folder: Path, environment: Mapping[str, str] = {}) -> Iterator[Server]:
    """Start a server, and kill it at the end of the context."""
    server = Server(command, folder, environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()
