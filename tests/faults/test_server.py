"""A server that hangs, dies and comes back; training does not notice, and nothing is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import clean_environment
from stores import points, synced

from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger


class Server:
    """A real `mlflow server` on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1",
             "--artifacts-destination", str(self.folder / "artifacts")],
            env=clean_environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(workplace)
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    yield made
    made.kill()


@pytest.mark.faults
def test_a_server_that_dies_and_returns_gets_everything_once(server: Server) -> None:
    client = store.connect()
    logger = MLflowLogger("faults", "run")
    logger.start(client, {"strategy": "single"})
    run_id = str(logger.version)
    slowest = 0.0
    for step in range(300):
        if step == 100:
            server.kill()
        start = time.monotonic()
        logger.log_metrics({"train/loss": step / 7, "train/accuracy": float(step)}, step)
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(0.005)
    logger.log_text("late", "notes/late.txt")
    logger.set_tags({"late": "yes"})
    logger.end("FINISHED")  # the server is gone: this comes back, and keeps what it could not deliver
    assert slowest < 0.1
    assert Path("mlruns/spool", run_id, "log.jsonl").exists()

    server.start()
    sync = synced(server.folder)
    assert sync.returncode == 0, sync.stderr
    assert "1 delivered, 0 kept" in sync.stdout
    assert points(client, run_id, "train/loss") == [(step, step / 7) for step in range(300)]
    assert points(client, run_id, "train/accuracy") == [(step, float(step)) for step in range(300)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["late"] == "yes"
    assert [entry.path for entry in client.list_artifacts(run_id, "notes")] == ["notes/late.txt"]
    assert not Path("mlruns/spool", run_id).exists()


def test_a_server_that_hangs_holds_up_no_end(server: Server) -> None:
    logger = MLflowLogger("faults", "run")
    logger.start(store.connect(), {})
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    start = time.monotonic()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.end("KILLED")
    assert time.monotonic() - start < 8
    assert Path("mlruns/spool", str(logger.version)).exists()
