"""Signals and kills during a fit: the exit code, the run's status, the checkpoint, and the remaining processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
import pytest
import torch
from commands import Command, free_port
from conftest import ROOT, SMALL_NET, Fit, clean_environment, copy_store, fit, listening
from tiny import TINY

from project.engine.checkpoints.durable import is_valid
from project.fit import main


def trained(folder: Path, *options: str) -> Command:
    """Start a long fit, and wait for its first checkpoint."""
    process = started(folder, "--max_epochs", "1000", *options)
    wait_for_checkpoint(folder, process)
    return process


def started(folder: Path, *options: str, environment: Mapping[str, str] = {}) -> Command:
    """Start a fit in its own process group."""
    environment = clean_environment() | environment
    return Command("project.fit", *options, folder=folder, environment=environment, new_session=True)


def wait_for_checkpoint(folder: Path, process: Command) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("mlruns/checkpoints/*/last.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.1)


def running_processes_of(group: int) -> list[int]:
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # It exited meanwhile.
            if process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                left.append(process.pid)
    return left


ONE: list[str] = []
DDP = ["--strategy", "ddp"]
FSDP = ["--strategy", "fsdp"]


@pytest.mark.parametrize(
    ("options", "signum", "receiver", "code", "status", "within_s"),
    [
        pytest.param(ONE, signal.SIGINT, "all", 130, "KILLED", 10, id="ctrl-c", marks=pytest.mark.faults),
        pytest.param(ONE, signal.SIGUSR1, "first", 143, "KILLED", 10, id="usr1", marks=pytest.mark.faults),
        pytest.param(ONE, signal.SIGHUP, "first", 143, "KILLED", 10, id="hup", marks=pytest.mark.faults),
        pytest.param(DDP, signal.SIGINT, "all", 130, "KILLED", 10, id="ddp-ctrl-c", marks=pytest.mark.faults),
        pytest.param(DDP, signal.SIGTERM, "first", 143, "KILLED", 10, id="ddp-term-one", marks=pytest.mark.faults),
        pytest.param(FSDP, signal.SIGTERM, "all", 143, "KILLED", 10, id="fsdp-term", marks=pytest.mark.faults),
        pytest.param(DDP, signal.SIGKILL, "second", 1, "FAILED", 15, id="ddp-kill-second", marks=pytest.mark.faults),
        pytest.param(DDP, signal.SIGKILL, "first", -9, "FAILED", 15, id="ddp-kill-first", marks=pytest.mark.faults),
        pytest.param(FSDP, signal.SIGKILL, "second", 1, "FAILED", 15, id="fsdp-kill", marks=pytest.mark.faults),
    ],
)
def test_a_signal_stops_a_fit_in_seconds_with_a_correct_status_and_a_checkpoint(
    options: list[str], signum: int, receiver: str, code: int, status: str, within_s: float, tmp_path: Path
) -> None:
    process = trained(tmp_path, *options)
    try:
        first = psutil.Process(process.pid)
        second = next((c.pid for c in first.children() if "project.fit" in " ".join(c.cmdline())), None)
        assert listening(process.pid) <= {"127.0.0.1", "::1"}
        start = time.monotonic()
        if receiver == "all":
            os.killpg(process.pid, signum)
        else:
            target = process.pid if receiver == "first" else second
            assert target is not None
            os.kill(target, signum)
        output = process.communicate(timeout=60)[0]
        while running_processes_of(process.pid) and time.monotonic() - start < within_s:
            time.sleep(0.1)
        assert time.monotonic() - start < within_s
        assert running_processes_of(process.pid) == []
    finally:
        for pid in running_processes_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == code, output
    stopped = Fit(tmp_path, code, output)
    assert stopped.run.info.status == status
    checkpoint = tmp_path / "mlruns/checkpoints" / stopped.run.info.run_id / "last.ckpt"
    assert is_valid(checkpoint)
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    assert (status == "FAILED") == ("error" in stopped.run.data.tags)
    assert f"--resume {stopped.run.info.run_id}" in output
    assert "RuntimeError" not in output  # of a collective


@pytest.mark.faults
@pytest.mark.parametrize("options", [ONE, DDP], ids=["one", "ddp"])
def test_a_terminal_that_is_closed_leaves_a_checkpoint(options: list[str], tmp_path: Path) -> None:
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(tmp_path)
        argv = [sys.executable, "-m", "project.fit", "--max_epochs", "1000", *options]
        os.execve(sys.executable, argv, clean_environment())
    threading.Thread(target=read_all, args=[terminal], daemon=True).start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("mlruns/checkpoints/*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(pid, signal.SIGHUP)  # The kernel sends it if the connection drops.
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert Fit(tmp_path, 143, "").run.info.status == "KILLED"
    assert all(is_valid(path) for path in tmp_path.glob("mlruns/checkpoints/*/last.ckpt"))


def read_all(terminal: int) -> None:
    with suppress(OSError):  # The terminal is closed.
        while os.read(terminal, 1024):
            pass


@pytest.mark.faults
@pytest.mark.parametrize("options", [ONE, DDP, FSDP], ids=["one", "ddp", "fsdp"])
def test_a_signal_at_any_moment_ends_all_processes_in_seconds(
    options: list[str], tmp_path: Path, moments: Random
) -> None:
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = started(folder, "--max_epochs", "2", *options)
        try:
            time.sleep(moments.uniform(0.5, 16))
            signum = moments.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
            start = time.monotonic()
            with suppress(psutil.NoSuchProcess, ProcessLookupError):  # It has exited.
                children = psutil.Process(process.pid).children()
                others = [child.pid for child in children if "project.fit" in " ".join(child.cmdline())]
                if moments.random() < 0.5:
                    os.killpg(process.pid, signum)
                else:
                    os.kill(moments.choice([process.pid, *others]), signum)
            output = process.communicate(timeout=60)[0]
            while running_processes_of(process.pid) and time.monotonic() - start < 30:  # A busy machine is slow.
                time.sleep(0.1)
            assert time.monotonic() - start < 30, output
            assert running_processes_of(process.pid) == []
        finally:
            for pid in running_processes_of(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
        assert "Traceback" not in output
        ended = process.returncode in (0, -signum)  # Before or after the run there is nothing to save.
        assert ended or process.returncode == (130 if signum == signal.SIGINT else 143), output
        if (folder / "mlruns/mlflow.db").exists():
            finished = ended or "the run is finished" in output
            if finished and (folder / "mlruns/spool").exists():  # The signal interrupted the delivery.
                Command("project.sync", folder=folder, environment=clean_environment()).wait()
            expected = "FINISHED" if finished else "KILLED"
            assert [run.info.status for run in Fit(folder, 0, "").runs] in ([], [expected]), output


@pytest.mark.faults
def test_a_nan_loss_ends_two_processes_as_failed(tmp_path: Path) -> None:
    failed = fit(tmp_path, "--strategy", "ddp", "--max_epochs", "1", "--model.optimizer.lr", "1e30")
    assert failed.code == 1, failed.output
    assert failed.run.info.status == "FAILED"
    assert "the loss is not finite" in failed.run.data.tags["error"]


@pytest.mark.faults
def test_a_killed_fit_is_closed_by_the_next_one_and_can_be_resumed(tmp_path: Path) -> None:
    process = trained(tmp_path)
    try:
        run_id = Fit(tmp_path, 0, "").run.info.run_id
        still = fit(tmp_path, "--resume", run_id)
    finally:
        process.kill()
        process.communicate()
    assert (still.code, "is still running; stop it first" in still.output) == (2, True)
    (last,) = tmp_path.glob("mlruns/checkpoints/*/last.ckpt")
    epochs = torch.load(last, weights_only=True)["epoch"] + 1
    assert "; give " in fit(tmp_path, "--resume", run_id, "--max_epochs", str(epochs - 1)).output
    done = fit(tmp_path, "--resume", run_id, "--max_epochs", str(epochs + 1))
    assert done.code == 0, done.output
    assert done.run.info.run_id == run_id
    assert done.run.info.status == "FINISHED"


@pytest.mark.faults
def test_processes_restarted_by_torchrun_continue_the_same_run(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    launcher = subprocess.Popen(
        [*torchrun, "-m", "project.fit", "--strategy", "ddp", "--max_epochs", "12"],
        cwd=tmp_path, env=clean_environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_for_checkpoint(tmp_path, launcher)
        psutil.Process(launcher.pid).children()[-1].kill()
        output = launcher.communicate(timeout=240)[0]
    finally:
        for pid in running_processes_of(launcher.pid):
            os.kill(pid, signal.SIGKILL)
        launcher.wait()
    assert launcher.returncode == 0, output
    done = Fit(tmp_path, 0, output)
    assert done.run.info.status == "FINISHED"
    assert "resumed" in done.run.data.tags
    epochs = [metric.step for metric in done.client.get_metric_history(done.run.info.run_id, "val/accuracy")]
    assert epochs == list(range(20, 252, 21))


@pytest.mark.faults
def test_all_slurm_tasks_of_a_node_stop_together(tmp_path: Path) -> None:
    host = socket.gethostname()
    job = {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": host, "SLURM_JOB_NODELIST": host,
        "MASTER_PORT": str(free_port()), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }  # fmt: skip
    copy_store(tmp_path)
    tasks = [
        started(tmp_path, *TINY, "--strategy", "ddp", "--devices", "2", "--max_epochs", "1000",
                environment=job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in "01"
    ]  # fmt: skip
    try:
        wait_for_checkpoint(tmp_path, tasks[0])
        assert listening(tasks[0].pid) | listening(tasks[1].pid) == {"127.0.0.1"}
        for task in tasks:  # SLURM does this with --signal=USR1@60.
            task.send_signal(signal.SIGUSR1)
        output = tasks[0].communicate(timeout=10)[0]
        tasks[1].communicate(timeout=10)
    finally:
        for task in tasks:
            task.kill()
            task.wait()
    assert tasks[0].returncode == 143, output
    assert Fit(tmp_path, 0, "").run.info.status == "KILLED"
    assert all(is_valid(path) for path in tmp_path.glob("mlruns/checkpoints/*/last.ckpt"))


def test_a_nan_loss_stops_training_and_is_not_saved(workplace: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"not finite at step 10, learning rate \S+; try a smaller"):
        main([*SMALL_NET, "--max_epochs=1", "--model.optimizer.lr=1e30", "--trainer.log_every_n_steps=10"])
    failed = Fit(workplace, 1, "").run
    assert failed.info.status == "FAILED"
    assert "the loss is not finite" in failed.data.tags["error"]
    assert not list(workplace.glob("mlruns/checkpoints/*/*.ckpt"))
