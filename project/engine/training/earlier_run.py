"""The run that a fit continues: of `--resume`, or of the attempt before a restart."""

from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.utilities.model_helpers import is_overridden
from mlflow import MlflowClient

from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.checkpoints.resume import (
    check_not_complete,
    check_optimizer,
    check_version,
    check_weights,
    data_state,
)
from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.settings import flatten
from project.engine.cli.trainer_checks import check_resumable
from project.engine.runtime.callbacks import callbacks_of
from project.engine.task import Task
from project.engine.tracking import experiments, store
from project.engine.tracking.recovery import is_held
from project.engine.tracking.run_reference import find_once
from project.engine.training.restarts import run_before_restart

_CHILDREN_USE = "PROJECT_RESUMED_RUN"


class EarlierRun(NamedTuple):
    """A run to continue.

    Attributes:
        run_id: The MLflow run.
        settings: Its settings as YAML; None after a restart, whose command line has all of them.
        checkpoint: Path of its newest checkpoint; None if it was stopped before the first.
        is_finished: Whether it is a run before a restart that has finished, so that nothing is left to do.
    """

    run_id: str
    settings: str | None
    checkpoint: str | None
    is_finished: bool = False


def find_earlier_run(command: CommandLine) -> EarlierRun | None:
    """Find the run that a fit continues.

    Args:
        command: The command line; `--resume` names the run by its id, or by another reference to it.

    Raises:
        ValueError, OSError: The run does not exist, or has no valid checkpoint.
    """
    resumed = command.resume
    run_id = find_once(resumed, _CHILDREN_USE, finished=False) if resumed else run_before_restart(command.argv)
    if run_id is None:
        return None
    if not resumed and store.connect().get_run(run_id).info.status == "FINISHED":
        return EarlierRun(run_id, None, None, is_finished=True)
    settings = experiments.settings_of(run_id) if resumed else None
    checkpoint = newest_checkpoint(store.checkpoint_folder(run_id), required=bool(resumed))
    if checkpoint:
        check_version(checkpoint)
    return EarlierRun(run_id, settings, str(checkpoint) if checkpoint else None)


def check_has_ended(earlier: EarlierRun) -> None:
    """Raise ValueError if a process still writes the run."""
    # Before a restart by torchrun or a sweep, the earlier attempt has ended, maybe on another machine.
    if is_held(earlier.run_id, owner_is_gone=earlier.settings is None):
        raise ValueError(
            f"--resume: run {earlier.run_id} is still running; stop it first, with Ctrl-C or SIGTERM "
            "(a run of a lost machine can be resumed three minutes after its last heartbeat)"
        )


def check_unchanged(earlier: EarlierRun, cli: FitCLI) -> None:
    """Raise ValueError if the data or the model are not those of the run; the rehearsal of others would fail."""
    if earlier.checkpoint is None:
        return
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError("--resume: got --trainer.fast_dev_run too, which starts no run; leave one of them out")
    checkpoint, run = Path(earlier.checkpoint), store.connect().get_run(earlier.run_id)
    before, now = run.data.params.get("data"), flatten(cli.config)["data"]
    if before not in (None, now):
        raise ValueError(
            f"--resume: got the data {now}, but the run used {before}; keep --data as it was, or start again "
            "without --resume"
        )
    check_resumable(cli.callbacks)
    model = cli.model
    if not is_overridden("configure_model", model) or isinstance(model, Task):
        check_weights(checkpoint, model)
    if isinstance(model, Task) and not is_overridden("configure_optimizers", model, Task):
        for finetuning in callbacks_of(cli.trainer, BaseFinetuning):
            finetuning.freeze_before_training(model)  # The optimizer may have only the other parameters.
        check_optimizer(checkpoint, model.make_optimizer())


def check_can_continue(earlier: EarlierRun, cli: FitCLI, client: MlflowClient) -> None:
    """Raise ValueError if the run cannot continue from its checkpoint with these settings."""
    if earlier.checkpoint is None:
        return
    checkpoint, trainer = Path(earlier.checkpoint), cli.trainer
    cli.data.check_same_batches(data_state(checkpoint, cli.datamodule), trainer.world_size, trainer.limit_train_batches)
    is_finished = client.get_run(earlier.run_id).info.status == "FINISHED"
    check_not_complete(checkpoint, is_finished, trainer.max_epochs, trainer.max_steps)
