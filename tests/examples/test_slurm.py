"""The scripts for SLURM, with stand-ins for `srun` and `scontrol`: a job that meets its time limit continues later."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from commands import free_port
from conftest import ROOT, SMALL_NET, Fit, clean_environment, copy_store
from optuna.trial import TrialState

pytestmark = pytest.mark.faults
FIT = [*SMALL_NET, "--max_epochs=40", "--trainer.limit_train_batches=10"]
SWEEP = ["--search=space.yaml", "--n_trials=2", "--strategy=ddp", *FIT]
# Starts the tasks of a job on this machine, and sends them the signal that SLURM sends before the time limit.
SRUN = """#!{python}
import os, signal, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[2:], env=os.environ | {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}})
    for rank in range(int(os.environ["SLURM_NTASKS"]))
]
signal.signal(signal.SIGUSR1, lambda signum, frame: [task.send_signal(signum) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = '#!/bin/sh\necho "$@" >> requeued\n'


class Job:
    """A job of SLURM on one node."""

    def __init__(self, folder: Path, script: str, tasks: int, options: Sequence[str], **environment: str) -> None:
        self.folder, self.command = folder, ["bash", str(ROOT / "examples/slurm" / script), *options]
        self.environment = clean_environment() | {
            "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "job", "SLURM_CPUS_PER_TASK": "1", "SLURM_NNODES": "1",
            "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_NTASKS": str(tasks),
            "SLURM_NTASKS_PER_NODE": str(tasks), "MASTER_PORT": str(free_port()),
            **environment,
        }  # fmt: skip
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / ".venv/bin").mkdir(parents=True)
        paths = f"{folder}/bin:{Path(sys.executable).parent}"
        (folder / ".venv/bin/activate").write_text(f'export PATH="{paths}:$PATH"\n')
        copy_store(folder)
        self.process: subprocess.Popen[str] | None = None

    def start(self, restarts: int) -> subprocess.Popen[str]:
        count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment | count, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return self.process

    def meet_time_limit(self, process: subprocess.Popen[str]) -> None:
        """Send the signal after the first checkpoint."""
        deadline = time.monotonic() + 120
        while not list(self.folder.glob("mlruns/checkpoints/*/last.ckpt")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        (srun,) = psutil.Process(process.pid).children()
        srun.send_signal(signal.SIGUSR1)


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    started: list[Job] = []
    yield started
    for job in started:
        if job.process is not None and job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()


def run_past_the_limit(job: Job, name: str) -> None:
    """Run a job until its time limit, and then again until it is done.

    Args:
        job: The job.
        name: The name by which it is put back into the queue.
    """
    first = job.start(restarts=0)
    job.meet_time_limit(first)
    output = first.communicate(timeout=120)[0]
    assert first.returncode == 143, output
    assert (job.folder / "requeued").read_text() == f"requeue {name}\n"
    again = job.start(restarts=1)
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert "srun" not in output


def test_a_fit_continues_its_run_after_the_time_limit_of_its_job(tmp_path: Path, jobs: list[Job]) -> None:
    jobs.append(Job(tmp_path, "fit.sh", 2, FIT))
    run_past_the_limit(jobs[0], "17")
    done = Fit(tmp_path, 0, "")
    assert done.run.info.status == "FINISHED"
    assert "resumed" in done.run.data.tags
    epochs = [metric.step for metric in done.client.get_metric_history(done.run.info.run_id, "val/accuracy")]
    assert epochs == list(range(9, 400, 10))


def test_a_sweep_continues_its_trials_after_the_time_limit_of_its_job(tmp_path: Path, jobs: list[Job]) -> None:
    space = {"model.optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-2}}
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({"metric": "val/accuracy", "direction": "maximize", "pruner": "NopPruner", "space": space})
    )
    # In an array, the number of the last task's job stands for all tasks.
    jobs.append(Job(tmp_path, "sweep.sh", 1, SWEEP, SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="2"))
    run_past_the_limit(jobs[0], "17_2")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/mlruns/optuna.db")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    trials = [run for run in Fit(tmp_path, 0, "").runs if "trial" in run.data.tags]
    assert len(trials) == 2
    assert [run.data.tags["trial"] for run in trials if "resumed" in run.data.tags] == ["0"]
