"""Runs under torchrun and SLURM: they use the launched processes, which wait for the first one without a limit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from commands import Command, free_port
from conftest import Fit, clean_environment, new_store
from jsonargparse import Namespace

from project.engine.runtime.devices import CPU_CORES, devices_for, usable_cores
from project.engine.runtime.rendezvous import FirstProcess

ONE_TASK = {"SLURM_NTASKS": "1"}
TWO_TASKS = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
TWO_NODES = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}


def settings(**given: Any) -> Namespace:
    plain = {"accelerator": "cpu", "strategy": "ddp", "devices": "auto", "num_nodes": 1, "precision": "32-true",
             "sync_batchnorm": False}  # fmt: skip
    return Namespace(**{**plain, **given})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets a launcher's environment and computes the devices."""

    def devices(environment: dict[str, str], **given: Any) -> tuple[int, int]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        chosen = devices_for(settings(**given))
        return chosen["devices"], chosen.get("num_nodes", 1)

    return devices


@pytest.mark.parametrize(
    ("environment", "given", "devices"),
    [
        ({}, {}, (2, 1)),
        ({}, {"devices": "-1"}, (2, 1)),
        ({}, {"devices": [0, 1]}, (2, 1)),
        ({}, {"devices": "1,"}, (1, 1)),
        ({}, {"strategy": "auto", "devices": [1]}, (1, 1)),
        ({}, {"strategy": "auto", "devices": "0,"}, (1, 1)),
        ({}, {"strategy": "auto", "devices": "auto"}, (1, 1)),
        (ONE_TASK, {"devices": 1}, (1, 1)),
        (TWO_TASKS, {}, (2, 1)),
        (TWO_TASKS | {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, {}, (2, 2)),
        (TWO_TASKS | {"SLURM_JOB_NAME": "bash"}, {"strategy": "auto"}, (1, 1)),
        (TWO_NODES, {}, (2, 2)),
        (TWO_NODES, {"devices": 2, "num_nodes": 2}, (2, 2)),
        ({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1"}, {"num_nodes": 2}, (2, 2)),
    ],
)
def test_the_devices_follow_the_settings_and_the_launcher(
    environment: dict[str, str], given: dict[str, Any], devices: tuple[int, int], launched: Any
) -> None:
    assert launched(environment, **given) == devices


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({}, {"devices": 0}, "--devices: got 0"),
        ({}, {"devices": []}, r"--devices: got \[\]"),
        ({}, {"devices": [1, 1]}, "different indices"),
        ({}, {"strategy": "auto", "devices": [0, 1]}, "add --strategy ddp"),
        ({}, {"num_nodes": 2}, "nothing started processes on other nodes"),
        ({}, {"sync_batchnorm": True}, "needs several GPUs"),
        (ONE_TASK, {}, "SLURM started 1 task"),
        (ONE_TASK, {"devices": 2}, "got 2, but SLURM started 1"),
        (TWO_TASKS, {"strategy": "auto"}, "SLURM started 2"),
        ({"SLURM_NTASKS": "2"}, {}, "--ntasks-per-node=2"),
        (TWO_NODES, {"devices": 4}, "got 4, but torchrun started 2"),
        (TWO_NODES, {"num_nodes": 3}, "got 3, but torchrun started 2"),
        (TWO_NODES, {"strategy": "auto"}, "torchrun started 4"),
        (TWO_NODES | {"WORLD_SIZE": "3"}, {}, "each node must have the same number"),
    ],
)
def test_settings_that_contradict_the_launcher_are_refused(
    environment: dict[str, str], given: dict[str, Any], message: str, launched: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        launched(environment, **given)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
)
def test_the_usable_cores_respect_the_quota_of_a_container(
    files: dict[str, str], cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ours = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == min(ours, cores or ours)
    monkeypatch.setenv(CPU_CORES, "5")
    assert usable_cores(tmp_path) == 5


def started(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, env=clean_environment() | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def tasks_of_slurm(folder: Path, *command: str) -> list[Command]:
    """Start a command as both tasks of a SLURM job on this machine."""
    job = TWO_TASKS | {"SLURM_JOB_ID": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    port = str(free_port())
    return [
        Command(
            *command, folder=folder,
            environment=clean_environment()
            | job
            | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_PORT": port},
        )
        for rank in "01"
    ]  # fmt: skip


def test_two_steps_of_a_job_on_one_node_do_not_meet() -> None:
    job = TWO_TASKS | {"SLURM_JOB_ID": "1234567", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    listening, ports = [], set()
    for step in ("0", "1"):
        with patch.dict(os.environ, job | {"SLURM_STEP_ID": step}):
            listening.append(FirstProcess())
            ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 2


MEET = """
import os, time
from project.engine.runtime.rendezvous import FirstProcess

def later():
    time.sleep(7)  # The store gives up after five seconds.
    return "made"

def killed():
    time.sleep(1)
    os.kill(os.getpid(), 9)

first = FirstProcess()
print(first.compute("slow", later), flush=True)
first.compute("killed", killed)
"""


@pytest.mark.faults
def test_the_others_wait_until_the_first_process_ends(tmp_path: Path) -> None:
    first, second = tasks_of_slurm(tmp_path, "-c", MEET)
    try:
        assert first.communicate(timeout=120)[0] == "made\n"
        output = second.communicate(timeout=20)[0]
    finally:
        first.kill()
        second.kill()
    assert output.startswith("made\n") and output.endswith("error: the first process of the run has ended\n")
    assert (first.returncode, second.returncode) == (-9, 1)


def test_all_processes_exit_if_the_first_refuses_its_input(tmp_path: Path) -> None:
    options = ["--strategy", "ddp", "--data", "mnist", "--data.root", "nowhere"]
    tasks = tasks_of_slurm(tmp_path, "project.fit", *options)
    try:
        outputs = [task.communicate(timeout=120)[0] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [2, 1], outputs
    assert "MNIST is not complete" in outputs[0]
    assert not (tmp_path / "mlruns").exists() or Fit(tmp_path, 2, "").runs == []


@pytest.mark.faults
def test_two_nodes_that_share_no_folder_train_test_and_resume(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        (folder / "mlruns").mkdir(parents=True)
        (folder / "mlruns/mlflow.db").write_bytes(new_store().read_bytes())

    def torchrun(*options: str) -> None:
        launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
                  f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=1", "--local-addr=127.0.0.1"]  # fmt: skip
        nodes = [started([*launch, "-m", "project.fit", *options], folder, {}) for folder in folders]
        try:
            outputs = [node.communicate(timeout=300)[0] for node in nodes]
        finally:
            for node in nodes:
                node.kill()
        assert [node.returncode for node in nodes] == [0, 0], outputs

    torchrun("--strategy=ddp", "--max_epochs=2", "--trainer.limit_train_batches=5")
    first, second = (Fit(folder, 0, "") for folder in folders)
    assert first.run.info.status == "FINISHED"
    assert first.run.outputs is not None and len(first.run.outputs.model_outputs) == 1
    torchrun("--strategy=fsdp", "--max_epochs=3", "--resume", first.run.info.run_id)
    assert [metric.step for metric in first.client.get_metric_history(first.run.info.run_id, "val/accuracy")] == [
        4, 9, 14
    ]  # fmt: skip
    assert second.runs == []
    assert not list(folders[1].rglob("*.ckpt"))
