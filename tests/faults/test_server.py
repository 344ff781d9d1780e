"""A server that hangs, dies and returns: training is not delayed, and no record is lost."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, serving
from stores import points, synced

from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger


@pytest.fixture
def server(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    stored = ["--backend-store-uri", f"sqlite:///{workplace}/server.db", "--artifacts-destination", "artifacts"]
    with serving("mlflow", "server", "--host", "127.0.0.1", *stored, folder=workplace) as made:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
        yield made


@pytest.mark.faults
def test_a_server_that_dies_and_returns_gets_everything_once(server: Server) -> None:
    client = store.connect()
    logger = MLflowLogger("faults", "run")
    logger.start(client, {"strategy": "single"})
    run_id = str(logger.version)
    seconds: list[float] = []
    for step in range(300):
        if step == 100:
            server.kill()
        start = time.monotonic()
        logger.log_metrics({"train/loss": step / 7, "train/accuracy": float(step)}, step)
        seconds.append(time.monotonic() - start)
        time.sleep(0.005)
    logger.log_text("late", "notes/late.txt")
    logger.set_tags({"late": "yes"})
    logger.end("FINISHED")  # The server is down: this returns, and keeps the rest in the spool.
    assert sorted(seconds)[-5] < 0.5  # MLflow's own client retries for minutes; a busy machine delays a few calls.
    assert Path("mlruns/spool", run_id, "log.jsonl").exists()

    server.start()
    sync = synced(server.folder)
    assert sync.code == 0, sync.output
    assert "1 delivered, 0 kept" in sync.output
    assert points(client, run_id, "train/loss") == [(step, step / 7) for step in range(300)]
    assert points(client, run_id, "train/accuracy") == [(step, float(step)) for step in range(300)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["late"] == "yes"
    assert [entry.path for entry in client.list_artifacts(run_id, "notes")] == ["notes/late.txt"]
    assert not Path("mlruns/spool", run_id).exists()


@pytest.mark.faults
@pytest.mark.timeout(120)  # A request to it lasts for minutes.
def test_a_server_that_hangs_does_not_delay_the_end_of_a_run(server: Server) -> None:
    logger = MLflowLogger("faults", "run")
    logger.start(store.connect(), {})
    server.stop(signal.SIGSTOP)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.end("KILLED")
    assert Path("mlruns/spool", str(logger.version)).exists()
