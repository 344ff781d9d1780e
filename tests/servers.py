"""Servers on loopback: they are started on a free port, killed, and started again on the same port."""

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
    """A command that serves HTTP on one port of loopback, in a process group of its own.

    Args:
        command: What follows `python -m`; `--port` is added.
        folder: Current folder of the command.
        environment: What is added to its environment.

    Attributes:
        uri: Its address, which stays the same when it is started again.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", *command, "--port", str(self._port), "--workers", "1"]
        self._environment = clean_environment() | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, which is that of its process group, too."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, cwd=self.folder, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", self._port)) != 0:
                assert self._process.poll() is None, f"{self._command} ended before it listened"
                time.sleep(0.1)

    def stop(self, signum: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.pid, signum)

    def kill(self) -> None:
        """Kill all of its processes, if it runs."""
        if self._process is not None:
            self.stop(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def serving(*command: str, folder: Path, environment: Mapping[str, str] = {}) -> Iterator[Server]:
    """A server that is started, and killed in the end."""
    server = Server(command, folder, environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()
