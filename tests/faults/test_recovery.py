"""A run whose process is gone is closed, and no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList

from project.tracking import store
from project.tracking.delivery import Courier
from project.tracking.logger import MLflowLogger
from project.tracking.recovery import close_without_spool


def test_a_run_that_is_interrupted_while_it_opens_is_closed(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(courier: Courier) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Courier, "start", interrupted)
    logger, client = MLflowLogger("faults", "run"), store.connect()
    with pytest.raises(KeyboardInterrupt):
        logger.start(client, {})
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/mlruns/mlflow.db")
    logger.end("KILLED")
    assert client.get_run(str(logger.version)).info.status == "KILLED"


def test_a_running_process_keeps_its_run(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    closer = "import os; from mlflow import MlflowClient; from project.tracking.recovery import recover_all; "
    subprocess.run(
        [sys.executable, "-c", closer + "recover_all(MlflowClient(os.environ['MLFLOW_TRACKING_URI']))"],
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        check=True,
    )  # fmt: skip
    assert client.get_run(str(logger.version)).info.status == "RUNNING"
    logger.end("FINISHED")
    assert client.get_run(str(logger.version)).info.status == "FINISHED"


def test_a_run_that_ends_is_not_taken_for_a_dead_one(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    closer = "import os; from mlflow import MlflowClient; from project.tracking.recovery import recover_all\n"
    closer += "client = MlflowClient(os.environ['MLFLOW_TRACKING_URI']); print('ready', flush=True)\n"
    other = subprocess.Popen(
        [sys.executable, "-c", closer + "while True: recover_all(client)"],
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        for _ in range(20):
            logger = MLflowLogger("faults", "run")
            logger.start(client, {})
            logger.end("FINISHED")
            assert client.get_run(str(logger.version)).info.status == "FINISHED"
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()
    assert not list(Path("mlruns/spool").iterdir())


def test_a_process_that_ends_its_run_and_itself_while_others_look_is_not_taken_for_killed(workplace: Path) -> None:
    program = "from project.tracking import store; from project.tracking.logger import MLflowLogger\n"
    program += "logger = MLflowLogger('faults', 'run'); logger.start(store.connect(), {})\n"
    program += "print(logger.version, flush=True); input(); logger.end('FINISHED')"
    uri = os.environ["MLFLOW_TRACKING_URI"]
    other = subprocess.Popen(
        [sys.executable, "-c", program], env=clean_environment() | {"MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    class EndsBehindTheSearch(MlflowClient):
        def search_runs(self, *args: Any, **kwargs: Any) -> PagedList[Run]:
            found = super().search_runs(*args, **kwargs)
            assert [run.info.run_id for run in found] == [run_id]
            other.communicate("\n")
            return found

    try:
        assert other.stdout is not None
        run_id = other.stdout.readline().strip()
        close_without_spool(EndsBehindTheSearch(uri))
    finally:
        other.kill()
        other.wait()
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    make = [sys.executable, "-c", "from project.tracking import store; store.connect(); print('made')"]
    environment = clean_environment()
    killed = subprocess.Popen(make, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    while not list(tmp_path.glob("mlruns/.mlflow.db.new*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(make, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "made" in again.stdout, again.stderr
