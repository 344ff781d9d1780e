"""The MLflow UI on this project's tracking store, with the runs of the newest experiment as a leaderboard.

python -m project.ui
python -m project.ui --port 5001 --no-browser
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from typing import IO
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from project.engine.runtime.startup import begin_command, end_activity, update_activity
from project.engine.runtime.stop_signals import exit_code, stop_signals

if __name__ == "__main__":
    begin_command("loading mlflow")

import psutil

from project.engine.cli.errors import exit_on_bad_input
from project.engine.tracking.leaderboard import publish
from project.engine.tracking.store import connect, server_address, tracking_uri

_USAGE = "usage: python -m project.ui [--no-browser] [options of mlflow ui, below]\n"
_PORT = 5000
_EVERY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# One worker, without a runner of background jobs, starts in a third of the time and serves one person as fast.
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_WORKERS = ("--workers", "1")
_LONGEST_END_S = 2.0


def main(argv: Sequence[str]) -> None:
    """Serve the UI on 127.0.0.1:5000, or on a free port, until Ctrl-C, with any option of `mlflow ui`.

    If the tracking store is a server, print the address of its page. Exit with 2 on bad input.
    """
    if "--help" in argv:
        print(_USAGE, flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--help"])
    with exit_on_bad_input():
        options, others = _parse(argv)
        if options.backend_store_uri:
            os.environ["MLFLOW_TRACKING_URI"] = options.backend_store_uri
        if tracking_uri().startswith("databricks"):
            raise ValueError(
                f"MLFLOW_TRACKING_URI: got {tracking_uri()}; its UI is in the Databricks workspace, under Experiments"
            )
        if address := server_address():
            _show(address + publish(connect()), options)
            return
        port = _free_port(options.host, options.port)
        page = publish(connect())  # Opening the store reports in one line what MLflow's server reports in fifty.
    with _ended_by_signals(), tempfile.TemporaryFile("w+") as log, _server(options, port, others, log) as server:
        address = f"http://{_in_url(options.host)}:{port}{options.static_prefix}"
        update_activity("starting the MLflow server")
        if _answers(server, address):
            _show(address + page, options)
            print("Ctrl-C ends it", flush=True)
            server.wait()
        log.seek(0)
        lines = log.read().split("\n")
        print(f"error: the MLflow server ended: {next(filter(None, reversed(lines)), '')}", file=sys.stderr)
        sys.exit(2 if server.returncode == 2 else 1)  # MLflow exits with 2 on bad options, too.


def _parse(argv: Sequence[str]) -> tuple[Namespace, Sequence[str]]:
    """Return the options that this command reads, and the others, which MLflow reads.

    Raises:
        ValueError: An option has no value, or the port is not a number.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--port", "-p", type=int)
    parser.add_argument("--host", "-h", default="127.0.0.1")
    parser.add_argument("--static-prefix", default="")
    parser.add_argument("--backend-store-uri")
    parser.add_argument("--no-browser", action="store_true")
    try:
        return parser.parse_known_args(argv)
    except ArgumentError as error:
        raise ValueError(f"{error}; python -m project.ui --help lists the options") from error


def _free_port(host: str, given: int | None) -> int:
    """Return the given port. Without one, return 5000, or a free port if 5000 is in use.

    Raises:
        OSError: The given port cannot be used.
    """
    with socket(AF_INET6 if ":" in host else AF_INET) as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind((host, _PORT if given is None else given))
        except (OSError, OverflowError) as error:  # OverflowError: the port is out of range
            if given is None and isinstance(error, OSError):
                return _free_port(host, 0)
            reason = error.strerror if isinstance(error, OSError) else "it must be from 1 to 65535"
            raise OSError(f"--port: cannot listen on {host}:{given} ({reason}); give --port N") from error
        return int(probe.getsockname()[1])


@contextmanager
def _server(options: Namespace, port: int, others: Sequence[str], log: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start MLflow's server with its output in a file, and end all its processes with the block."""
    prefix = ["--static-prefix", options.static_prefix] if options.static_prefix else []
    command = ["ui", "--host", options.host, "--port", str(port), *prefix, *_WORKERS, *others]
    # Any user of the machine can read an option, so the address of the store is in the environment: it may contain a
    # password.
    environment: Mapping[str, str] = {**_ENVIRONMENT, **os.environ, "MLFLOW_BACKEND_STORE_URI": tracking_uri()}
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *command], env=environment, stdout=log, stderr=log)
    try:
        yield server
    finally:
        processes: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for kill in (psutil.Process.terminate, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    kill(process)
            processes = psutil.wait_procs(processes, _LONGEST_END_S)[1]


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers. Return False if it ends."""
    direct = build_opener(ProxyHandler({}))  # A proxy of the environment does not reach this machine.
    while server.poll() is None:
        try:
            with direct.open(address, timeout=10):
                return True
        except HTTPError:  # such as a request for a password
            return True
        except OSError:
            time.sleep(0.2)
    return False


def _show(address: str, options: Namespace) -> None:
    """Print the address, and open it in a browser if a person is at a screen."""
    end_activity()
    print(address, flush=True)
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER")
    has_screen = sys.platform == "darwin" or any(os.environ.get(name) for name in screens)
    if has_screen and sys.stdout.isatty() and not options.no_browser:
        webbrowser.open(address)


def _in_url(host: str) -> str:
    host = _EVERY_HOST.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Exit at a signal with one line and the signal's exit code."""

    def stop(number: int, _frame: object) -> None:
        for each in numbers:  # A second signal must not interrupt the end of the server.
            signal.signal(each, signal.SIG_IGN)
        print("\nthe MLflow UI has ended" if number == signal.SIGINT else "the MLflow UI has ended", flush=True)
        sys.exit(exit_code(number))

    numbers = stop_signals()
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


if __name__ == "__main__":
    main(sys.argv[1:])
