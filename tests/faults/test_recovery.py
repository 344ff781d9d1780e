"""Recovery of runs: a run whose process is dead is closed, and all other runs are left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from conftest import clean_environment
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from stores import synced

from project.engine.tracking import experiments, store
from project.engine.tracking.delivery import Courier
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.owner import DEAD_AFTER_ON_THIS_KERNEL_S, owner_tags
from project.engine.tracking.recovery import close_without_spool, recover_all, recover_run
from project.engine.tracking.spool import Spool
from project.sync import main as sync


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
    closer = "import os; from mlflow import MlflowClient; from project.engine.tracking.recovery import recover_all; "
    closer += "recover_all(MlflowClient(os.environ['MLFLOW_TRACKING_URI']))"
    environment = clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    assert Command("-c", closer, folder=workplace, environment=environment).wait() == 0
    assert client.get_run(str(logger.version)).info.status == "RUNNING"
    logger.end("FINISHED")
    assert client.get_run(str(logger.version)).info.status == "FINISHED"


def test_a_resumed_run_has_nothing_of_what_an_earlier_process_left_in_the_spool(workplace: Path) -> None:
    client = store.connect()
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(store.spool_folder(run_id))
    spool.append({"tags": {"error": "out of memory"}})
    spool.append({"status": "FAILED", "time_ms": 1})
    spool.close(remove=False)
    logger = MLflowLogger("faults", "run")
    logger.resume(client, run_id, "python -m project.fit", {})
    logger._courier.deliver_now()
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags.get("error")) == ("RUNNING", None)
    logger.end("FINISHED")


class Interrupted(MlflowClient):
    def set_tag(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_a_finished_run_whose_resume_is_interrupted_stays_finished(workplace: Path) -> None:
    client = store.connect()
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    client.set_terminated(run_id, end_time=1)
    with pytest.raises(KeyboardInterrupt):
        MLflowLogger("faults", "run").resume(Interrupted(), run_id, "python -m project.fit", {})
    (store.spool_folder(run_id) / "owner").unlink()  # as if this process had ended
    recover_all(client, within_s=60)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1)
    assert not store.spool_folder(run_id).exists()


def test_a_process_that_dies_after_its_run_is_finished_leaves_it_finished(workplace: Path) -> None:
    client = store.connect()
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(store.spool_folder(run_id))
    spool.append({"status": "FINISHED", "time_ms": 1})  # The process dies before it delivers this.
    spool.close(remove=False)
    recover_run(run_id, "FAILED", "its process was killed")
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.tags.get("error")) == ("FINISHED", 1, None)


def test_a_run_whose_process_died_before_its_first_record_is_closed(workplace: Path) -> None:
    client = store.connect()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tags = owner_tags(process.pid)
    process.communicate(b"\n")
    run_id = client.create_run(client.create_experiment("faults"), tags=tags).info.run_id
    store.spool_folder(run_id).mkdir(parents=True)
    recover_all(client, within_s=60)
    assert client.get_run(run_id).info.status == "KILLED"


@pytest.mark.faults
def test_a_run_that_is_ending_is_not_closed_as_killed(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    closer = "import os; from mlflow import MlflowClient; from project.engine.tracking.recovery import recover_all\n"
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


@pytest.mark.faults
def test_a_process_that_exits_during_a_search_is_not_reported_as_killed(workplace: Path) -> None:
    program = "from project.engine.tracking import store; from project.engine.tracking.logger import MLflowLogger\n"
    program += "logger = MLflowLogger('faults', 'run'); logger.start(store.connect(), {})\n"
    program += "print(logger.version, flush=True); input(); logger.end('FINISHED')"
    uri = os.environ["MLFLOW_TRACKING_URI"]
    other = subprocess.Popen(
        [sys.executable, "-c", program], env=clean_environment() | {"MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    class EndsAfterTheSearch(MlflowClient):
        def search_runs(self, *args: Any, **kwargs: Any) -> PagedList[Run]:
            found = super().search_runs(*args, **kwargs)
            assert [run.info.run_id for run in found] == [run_id]
            other.communicate("\n")
            return found

    try:
        assert other.stdout is not None
        run_id = other.stdout.readline().strip()
        close_without_spool(EndsAfterTheSearch(uri))
    finally:
        other.kill()
        other.wait()
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


PROGRAM = """
from project.engine.tracking import experiments, store
from project.engine.tracking.logger import MLflowLogger
logger = MLflowLogger("faults", "run")
logger.start(store.connect(), {})
print(logger.version, flush=True)
input()
"""


@contextmanager
def running_in_a_container(folder: Path) -> Iterator[str]:
    """Start a process that writes a run in another pid namespace, with the same host name; kill it at the end."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("makes pid namespaces")
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", PROGRAM],
        cwd=folder, env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if not (run_id := process.stdout.readline().strip()):
            pytest.skip("unshare is not permitted")
        yield run_id
    finally:
        process.kill()
        process.communicate()


@pytest.mark.faults
def test_a_run_of_another_container_is_closed_only_after_its_heartbeat_is_too_old(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, container = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), workplace / "container"
    with running_in_a_container(container) as run_id:
        recover_all(client)  # This folder shares the store, but not the spool.
        assert client.get_run(run_id).info.status == "RUNNING"
        monkeypatch.chdir(container)
        recover_all(client)
        assert client.get_run(run_id).info.status == "RUNNING"
    log = Path("mlruns/spool", run_id, "log.jsonl")
    recover_all(client)
    assert client.get_run(run_id).info.status == "RUNNING"
    last_beat = log.stat().st_mtime - DEAD_AFTER_ON_THIS_KERNEL_S
    os.utime(log, (last_beat, last_beat))
    recover_all(client, within_s=60)
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert abs(run.info.end_time / 1000 - last_beat) < 1
    assert not log.exists()


@pytest.mark.faults
def test_a_live_run_whose_lock_is_not_visible_keeps_its_spool(workplace: Path) -> None:
    """BeeGFS, and Lustre with `localflock`, lock a file for one machine only, while all machines see the folder."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    assert logger.spool is not None
    folder = logger.spool.folder
    (folder / "lock").unlink()
    (folder / "owner").write_text(json.dumps(owner_tags() | {"project.process.host": "other node"}))
    log = folder / "log.jsonl"
    an_hour_ago = time.time() - 3600
    for _ in range(2):
        os.utime(log, (an_hour_ago, an_hour_ago))  # The next system metrics update its time.
        deadline = time.monotonic() + 10
        while log.stat().st_mtime == an_hour_ago and time.monotonic() < deadline:
            time.sleep(0.1)
        assert synced(workplace).output.startswith("0 delivered")
        assert log.exists()
    logger.end("FINISHED")
    assert client.get_run(str(logger.version)).info.status == "FINISHED"


def test_a_store_that_goes_away_during_sync_is_reported_in_one_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("Connection refused")

    monkeypatch.setattr(experiments, "newest_runs", fail)
    with pytest.raises(SystemExit, match="2"):
        sync([])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("0 delivered, 0 kept\n", "error: Connection refused\n")


def test_recovery_delays_a_command_by_seconds_at_most(
    silent_server: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server accepts connections and never responds, and several spools wait for it."""
    for name, value in (("MAX_RETRIES", "0"), ("TIMEOUT", "5")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    for number in range(4):
        spool = Spool(store.spool_folder(f"run{number}"))
        spool.append({"metrics": {"loss": 1.0}, "step": 0, "time_ms": 1})
        spool.close(remove=False)
    start = time.monotonic()
    recover_all(MlflowClient(silent_server))
    assert time.monotonic() - start < 15  # One by one, the four spools would take 20 s.
    assert len(list(Path("mlruns/spool").glob("*/log.jsonl"))) == 4


@pytest.mark.faults
def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    make = [sys.executable, "-c", "from project.engine.tracking import store; store.connect(); print('made')"]
    environment = clean_environment()
    killed = subprocess.Popen(make, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    while not list(tmp_path.glob("mlruns/.mlflow.db.tmp*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(make, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "made" in again.stdout, again.stderr
