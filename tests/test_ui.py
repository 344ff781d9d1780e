"""The command that serves MLflow's UI."""

import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from commands import free_port
from conftest import clean_environment
from servers import serving

from project import ui


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "5x"], "argument --port/-p: invalid int value: '5x'; python -m project.ui --help"),
        (["--port", "80000"], "cannot listen on 127.0.0.1:80000 (it must be from 1 to 65535)"),
        (["--port"], "argument --port/-p: expected one argument"),
        (["--prt", "5001"], "No such option '--prt'. Did you mean '--port'?"),
    ],
)
def test_a_bad_option_is_reported_in_one_line(
    options: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        ui.main(options)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_replaced_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(ui, "_PORT", taken)
        assert ui._free_port("127.0.0.1", None) not in (taken, 0)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{taken} .*give --port N"):
            ui._free_port("127.0.0.1", taken)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_a_host_may_have_an_ipv6_address() -> None:
    assert ui._free_port("::1", 0) > 0


@pytest.mark.faults
def test_ctrl_c_ends_the_server_in_one_line(workplace: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "project.ui", "--port", "0"],
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert command.stdout is not None
    try:
        shown = [command.stdout.readline() for _ in range(2)]
        assert shown[0].startswith("http://127.0.0.1:"), shown
        server = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(signal.SIGINT)
        assert command.stdout.read().strip() == "the MLflow UI has ended"
        assert command.wait() == 130
        assert server and not any(process.is_running() for process in server)
    finally:
        command.kill()


def test_the_server_answers_without_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as answering:
        threading.Thread(target=answering.handle_request, daemon=True).start()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"]) as server:
            assert ui._answers(server, f"http://127.0.0.1:{answering.server_port}")
            server.kill()


def test_a_server_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ui._ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.faults
def test_the_page_of_a_server_is_printed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"]}
    with serving("mlflow", "server", folder=workplace, environment=environment) as server:
        with urlopen(server.uri, timeout=120):  # It listens before it answers.
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        ui.main([])
    assert capsys.readouterr().out == f"{server.uri}/#/experiments?workflowType=machine_learning\n"
