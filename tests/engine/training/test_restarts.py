"""Commands that torchrun or SLURM starts again: they continue their own run."""

import os
import signal
from pathlib import Path

import pytest
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from tiny import TINY

from project.engine.training.restarts import TAG, launch_tag
from project.fit import main

OPTIONS = [*TINY, "--max_epochs=3"]


class Preempted(Callback):
    """Sends the signal before a time limit at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_requeued_job_of_slurm_continues_the_run_of_each_of_its_commands(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished() -> Fit:
        return Fit(workplace, 0, "")

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    main([*OPTIONS, "--seed_everything=1"])  # The first command of the job.
    (done,) = finished().runs
    with pytest.raises(SystemExit, match="143"):
        main(OPTIONS, [Preempted(5)])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    capsys.readouterr()

    with pytest.raises(SystemExit) as end:
        main([*OPTIONS, "--seed_everything=1"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"run {done.info.run_id} of this command has finished before the restart\n"

    main(OPTIONS)
    (continued,) = [run for run in finished().runs if run.info.run_id != done.info.run_id]
    assert continued.info.status == "FINISHED"
    history = finished().client.get_metric_history(continued.info.run_id, "val/accuracy")
    assert [metric.step for metric in history] == [3, 7, 11]


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("environment", "has_tag"),
    [
        ({}, False),
        ({"TORCHELASTIC_RUN_ID": "mine", "GROUP_WORLD_SIZE": "2"}, True),
        (TORCHRUN, True),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "2"}, False),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "2", "SLURM_JOB_ID": "1"}, True),
        ({"SLURM_JOB_ID": "1", "SLURM_CLUSTER_NAME": "big"}, True),
    ],
)
def test_the_attempts_of_a_command_share_a_tag(
    environment: dict[str, str], has_tag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (TAG in launch_tag(["--a"])) == has_tag
    assert launch_tag(["--a"]) == launch_tag(["--a"])
    assert not has_tag or launch_tag(["--a"]) != launch_tag(["--b"])
