"""The spool: records that wait for the store survive kills, a full disk and refusals of the store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch
from commands import Command
from conftest import as_nobody, clean_environment
from mlflow import MlflowClient
from stores import points, synced
from torch import nn

from project.engine.data import DescribedDataModule
from project.engine.tracking.delivery import Courier, deliver
from project.engine.tracking.description import TAG
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.owner import DEAD_AFTER_S
from project.engine.tracking.recovery import recover_all
from project.engine.tracking.spool import LANES, Spool
from project.engine.tracking.tags import COMMIT
from project.engine.training.serving import save_model

WRITER = """
import os, sys, time
from pathlib import Path
from random import Random
from project.engine.tracking.spool import Spool
spool = Spool(Path(sys.argv[-1]))
for step in range(10**9):
    spool.append({"metrics": {"loss": step / 3}, "step": step, "time_ms": 1_700_000_000_000 + step})
    print(step, flush=True)
"""


@pytest.mark.parametrize("attempt", [0, *(pytest.param(more, marks=pytest.mark.faults) for more in range(1, 5))])
def test_kill_9_costs_at_most_the_last_record(attempt: int, workplace: Path, moments: Random) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    folder = Path("mlruns/spool", run_id)
    process = Command("-c", WRITER, str(folder), folder=workplace, environment=clean_environment())
    process.stdout.readline()
    time.sleep(moments.uniform(0, 0.1))
    process.kill()
    written = 1 + len(process.stdout.read().splitlines())
    process.wait()
    with (folder / "log.jsonl").open("ab") as log:
        log.write(b'{"metrics": {"loss": 1')  # A crash of the machine can cut a line.
    unfinished = Path("mlruns/checkpoints", run_id, ".last.ckpt.tmp")
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()

    recover_all(client, within_s=60)

    assert not unfinished.exists()

    delivered = points(client, run_id, "loss")
    assert [step for step, _ in delivered] == list(range(len(delivered)))
    assert written <= len(delivered) <= written + 1  # The kill may come between writing and counting.
    assert client.get_run(run_id).info.status == "KILLED"
    assert not folder.exists()


def test_a_replay_of_delivered_records_changes_nothing(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(workplace / "spool" / run_id)
    for step in range(1200):
        spool.append({"metrics": {"loss": float("nan") if step == 7 else step / 3}, "step": step, "time_ms": step + 1})
    spool.append({"params": {"lr": "0.1"}})
    middle = [offset for _, offset in spool.undelivered("metrics")][1100]
    for offset in (0, 0, middle):  # A crash before the offset is saved repeats a delivery.
        spool.mark_delivered("metrics", offset)
        list(deliver(spool, client))
    assert len(points(client, run_id, "loss")) == 1200
    assert spool.waiting == 0
    spool.close(remove=True)


class Digits(DescribedDataModule):
    """Data with a digest."""

    name = "digits"

    def digest(self) -> str:
        return "12345678"


def test_a_record_that_is_sent_twice_is_stored_once(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    assert logger.spool is not None
    run_id, spool = logger.spool.run_id, logger.spool
    folder = logger.artifact_file("model")
    assert folder is not None
    save_model(folder, nn.Flatten(), torch.zeros(2, 1, 2, 2, dtype=torch.uint8), {"class_names": list("abcd")})
    logger.log_dataset(Digits())
    logger.set_tags({TAG: "first"})
    logger.log_metrics({"test/f1": 0.5}, 3)
    logger.log_saved_model("model", {TAG: "a model"})
    logger.set_tags({TAG: "last"})
    shares: list[float] = []
    for _ in range(2):  # A crash before the offset is saved repeats a request.
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
    assert run.data.tags[TAG] == "last"
    logged = client.get_logged_model(model.model_id)
    found = [(m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in logged.metrics or []]
    assert found == [("test/f1", 0.5, 3, "digits", "12345678")]
    assert logged.tags[TAG] == "a model"
    assert logged.tags[COMMIT] == run.data.tags[COMMIT]


def test_a_refused_record_does_not_delay_other_records(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(workplace / "spool" / run_id)
    spool.append({"params": {"lr": "0.1"}})
    spool.append({"params": {"lr": "0.2"}})  # MLflow refuses to change a parameter.
    spool.append({"metrics": {"../a": 1.0, "loss": 1.0}, "step": 0, "time_ms": 1})  # The name is not valid.
    (spool.folder / "log.jsonl").open("ab").write(b'{"metrics": \0\0\0\n')  # A crash can leave zeros.
    spool.append({"metrics": {"loss": 2.0}, "step": 1, "time_ms": 2})
    list(deliver(spool, client))
    assert caplog.text.count("refuses part of run") == 2
    assert "damaged line" in caplog.text
    assert client.get_run(run_id).data.params == {"lr": "0.1"}
    assert points(client, run_id, "loss") == [(0, 1.0), (1, 2.0)]
    assert spool.waiting == 0
    spool.close(remove=True)


def test_a_name_of_a_file_that_is_not_utf_8_delays_no_record(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    logger.set_tags({"error": "cannot read 猫\udcff.jpg"})
    logger.end("FAILED")
    run = client.get_run(str(logger.version))
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "cannot read 猫?.jpg")


def test_refused_files_do_not_delay_metrics_or_the_status(workplace: Path) -> None:
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
    shutil.copy("mlruns/mlflow.db", "other.db")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(Path("mlruns/spool", run_id))
    spool.append({"metrics": {"loss": 1.0}, "step": 0, "time_ms": 1})
    spool.close(remove=False)
    (spool.folder / "owner").write_text('{"project.process.host": "a container that has ended"}')
    os.utime(spool.folder / "log.jsonl", (0, time.time() - DEAD_AFTER_S - 1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/other.db")
    assert synced(workplace).code == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/mlruns/mlflow.db")
    assert "1 delivered, 0 kept" in synced(workplace).output
    assert points(client, run_id, "loss") == [(0, 1.0)]


def test_a_full_disk_delays_records_and_loses_none(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    spool = Spool(workplace / "spool" / "run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # A write beyond this size fails.
        for step in range(100):
            spool.append({"metrics": {"loss": 0.5}, "step": step, "time_ms": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("logging continues in memory") == 1
    spool.append({"metrics": {"loss": 0.5}, "step": 100, "time_ms": 1})
    assert [record["step"] for record, _ in spool.undelivered("metrics") if record] == list(range(101))
    spool.close(remove=True)


@pytest.mark.faults
def test_a_folder_that_vanishes_ends_no_training_and_loses_no_record(workplace: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run")
    logger.start(client, {})
    run_id = str(logger.version)
    assert logger.spool is not None
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, 2 * step)
        # It vanishes in one operation; the heartbeat would write files while they are removed one by one.
        shutil.rmtree(logger.spool.folder.rename(f"vanished-{step}"))
        logger.log_metrics({"loss": 1.0}, 2 * step + 1)
        if step:  # At first the folder is missing; later the heartbeat has created it again.
            logger.spool.beat()
            assert json.loads((logger.spool.folder / "owner").read_text())
            assert is_held_by_others(workplace, run_id)
        logger.log_text("text", f"{step}.txt")
        if step == 1:
            client.set_terminated(run_id, "KILLED")  # Another process has taken the folder.
            logger.spool.beat()
    logger.end("FINISHED")
    assert [step for step, _ in points(client, run_id, "loss")] == list(range(6))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "2.txt" in {entry.path for entry in client.list_artifacts(run_id)}
    assert not Path("mlruns/spool", run_id).exists()


def is_held_by_others(folder: Path, run_id: str) -> bool:
    program = "import sys; from project.engine.tracking import recovery; recovery._SHORT_WAIT_S = 0; "
    program += f"sys.exit(recovery.is_held({run_id!r}))"
    return bool(subprocess.run([sys.executable, "-c", program], env=clean_environment(), cwd=folder).returncode)


def test_a_disk_that_refuses_every_write_loses_no_record(workplace: Path) -> None:
    """Records that the disk refuses are delivered from memory, so the run does not end as KILLED."""
    import resource

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    spool = Spool(workplace / "spool" / run_id)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        for step in range(10):
            spool.append({"metrics": {"loss": 0.5}, "step": step, "time_ms": 1})
        spool.append({"status": "FINISHED", "time_ms": 1})
        spool.beat()
        assert spool.waiting > 500
        assert (spool.folder / "log.jsonl").stat().st_size == 100
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # SQLite also writes larger files.
        for lane in LANES:
            records = [record for record, _ in spool.undelivered(lane) if record]
            assert [next(iter(record)) for record in records] == {"metrics": ["metrics"] * 10, "state": ["status"]}.get(
                lane, []
            )
        list(deliver(spool, client))
        assert spool.waiting == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(points(client, run_id, "loss")) == 10
    assert int((spool.folder / "delivered-metrics").read_text()) == 100  # Only records that another process can read.
    spool.close(remove=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose rights the test drops")
def test_a_folder_that_becomes_read_only_ends_no_training(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment("faults")).info.run_id
    logger = MLflowLogger("faults", "run")
    logger.spool = spool = Spool(Path("mlruns/spool", run_id))
    with as_nobody():
        logger.log_metrics({"loss": 1.0}, 0)
        logger.log_text("text", "late/notes.txt")
        with pytest.raises(PermissionError):
            logger.artifact_file("model/files")
        spool.beat()
        spool.mark_delivered("state", 0)
    list(deliver(spool, client))
    assert spool.waiting == 0
    with as_nobody():
        spool.close(remove=True)
    assert points(client, run_id, "loss") == [(0, 1.0)]
    assert "late/notes.txt cannot be written" in caplog.text
    assert "which is delivered" in caplog.text


def test_a_spool_is_opened_again_after_its_holder_has_removed_it(workplace: Path) -> None:
    folder = Path("mlruns/spool/run")
    held = Spool(folder)
    with ThreadPoolExecutor(1) as other:
        opening = other.submit(Spool, folder, wait_s=30)
        time.sleep(0.5)
        held.close(remove=True)
        assert opening.result().files.is_dir()
        other.submit(opening.result().close, remove=True).result()
