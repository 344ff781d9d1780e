"""The store hangs, dies, comes back, or is gone for ever; training does not notice, and nothing is lost."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import clean_environment
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList
from torch import nn

from project.tracking import store
from project.tracking.delivery import Courier, deliver
from project.tracking.logger import MLflowLogger
from project.tracking.model import save_model
from project.tracking.recovery import close_without_spool, recover_all
from project.tracking.secrets import redact_options
from project.tracking.spool import LANES, Spool


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


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


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


WRITER = """
import os, sys, time
from pathlib import Path
from project.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]))
for step in range(10**9):
    spool.append({"metrics": {"loss": step / 3}, "step": step, "time_ms": 1_700_000_000_000 + step})
    print(step, flush=True)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_kill_9_costs_at_most_the_last_record(attempt: int, workplace: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    folder = Path("mlruns/spool", run_id)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.kill()
    written = 1 + len(process.stdout.read().splitlines())
    process.wait()
    with (folder / "log.jsonl").open("ab") as log:
        log.write(b'{"metrics": {"loss": 1')  # what a write in the middle of a crash of the machine leaves
    unfinished = Path("mlruns/checkpoints", run_id, ".last.ckpt.tmp")
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()

    recover_all(client)

    assert not unfinished.exists()

    delivered = points(client, run_id, "loss")
    assert [step for step, _ in delivered] == list(range(len(delivered)))
    assert written <= len(delivered) <= written + 1  # the writer is killed between writing and saying so
    assert client.get_run(run_id).info.status == "KILLED"
    assert not folder.exists()


def test_replay_changes_nothing(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(workplace / "spool" / run_id)
    for step in range(2500):
        spool.append({"metrics": {"loss": float("nan") if step == 7 else step / 3}, "step": step, "time_ms": step + 1})
    spool.append({"params": {"lr": "0.1"}})
    middle = [offset for _, offset in spool.undelivered("metrics")][1700]
    for offset in (0, 0, middle):  # as after a crash between delivering and remembering it
        spool.mark_delivered("metrics", offset)
        list(deliver(spool, client))
    assert len(points(client, run_id, "loss")) == 2500
    assert spool.waiting == 0
    spool.close(remove=True)


def test_what_is_sent_twice_is_there_once(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    assert logger.spool is not None
    run_id, spool = logger.spool.run_id, logger.spool
    folder = logger.model_folder("model")
    assert folder is not None
    save_model(folder, nn.Flatten(), torch.zeros(2, 1, 2, 2, dtype=torch.uint8), list("abcd"))
    logger.log_dataset("digits", "12345678", {"train": 2}, "digits")
    logger.log_saved_model("model")
    shares: list[float] = []
    for _ in range(2):  # as after a crash between sending and remembering it
        assert logger._courier.drain(shares.append)
        for lane in LANES:
            spool.mark_delivered(lane, 0)
        logger._courier = Courier(spool, client)
        logger._courier.start()
    logger.end("FINISHED")
    run = client.get_run(run_id)
    (model,) = run.outputs.model_outputs
    assert [m.model_id for m in client.search_logged_models([run.info.experiment_id])] == [model.model_id]
    assert len(run.inputs.dataset_inputs) == 1


def test_files_that_are_not_taken_hold_up_neither_metrics_nor_the_status(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.create_experiment("faults", artifact_location="ftp://127.0.0.1:9/nobody")
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.end("FAILED")
    run_id = str(logger.version)
    assert points(client, run_id, "loss") == [(0, 1.0)]
    assert client.get_run(run_id).info.status == "FAILED"
    assert Path("mlruns/spool", run_id, "files/requirements.txt").exists()


@pytest.mark.faults
def test_a_spool_of_another_store_is_kept(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(Path("mlruns/spool", run_id))
    spool.append({"metrics": {"loss": 1.0}, "step": 0, "time_ms": 1})
    spool.close(remove=False)
    (spool.folder / "host").write_text("a container that is no more")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/other.db")
    assert synced(workplace).returncode == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/mlruns/mlflow.db")
    assert "1 delivered, 0 kept" in synced(workplace).stdout
    assert points(client, run_id, "loss") == [(0, 1.0)]


def synced(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "project.sync"],
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


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


def test_what_the_store_refuses_holds_up_nothing(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(workplace / "spool" / run_id)
    spool.append({"params": {"lr": "0.1"}})
    spool.append({"params": {"lr": "0.2"}})  # MLflow's parameters do not change
    spool.append({"metrics": {"a@b": 1.0, "loss": 1.0}, "step": 0, "time_ms": 1})  # nor has a name an @
    (spool.folder / "log.jsonl").open("ab").write(b'{"metrics": \0\0\0\n')  # and so may a crash of the machine end
    spool.append({"metrics": {"loss": 2.0}, "step": 1, "time_ms": 2})
    list(deliver(spool, client))
    assert caplog.text.count("refuses part of run") == 2
    assert "damaged line" in caplog.text
    assert client.get_run(run_id).data.params == {"lr": "0.1"}
    assert points(client, run_id, "loss") == [(0, 1.0), (1, 2.0)]
    assert spool.waiting == 0
    spool.close(remove=True)


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


def test_a_full_disk_delays_records_and_loses_none(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    spool = Spool(workplace / "spool" / "run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write past it fails, in part at first
        for step in range(100):
            spool.append({"metrics": {"loss": 0.5}, "step": step, "time_ms": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("logging goes on in memory") == 1
    spool.append({"metrics": {"loss": 0.5}, "step": 100, "time_ms": 1})
    assert [record["step"] for record, _ in spool.undelivered("metrics") if record] == list(range(101))
    spool.close(remove=True)


def test_secrets_stay_out(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "hunter2hunter2")
    monkeypatch.setenv("STORE", "postgresql://me:pass-word@host/db")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run root=s3://me:pass-word@host")
    command = "fit --data.root s3://me:hunter2hunter2@host/x --x hunter2hunter2 --data.api_key=pass-word"
    logger.start(client, {"command": " ".join(redact_options(command.split()))})
    logger.log_hyperparams({"data.root": "https://me:pass-word@host/x", "data.token": "abc", "model.net.tokens": 3})
    logger.log_text(
        "uri: postgresql://me:a@pass-word@host/db?token=pass-word and hunter2hunter2, pass-word", "config.yaml"
    )
    logger.end("FINISHED")
    run = client.get_run(str(logger.version))
    text = Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
    everything = json.dumps(run.to_dictionary()) + text
    assert "hunter2" not in everything
    assert "pass-word" not in everything
    assert run.data.params["data.root"] == "https://me:***@host/x"
    assert run.data.params["data.token"] == "***"
    assert run.data.params["model.net.tokens"] == "3"
