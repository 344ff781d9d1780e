"""A fit with everything around it: checks before its MLflow run, and the release of its resources."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.checkpoints.resume import CurrentSettings
from project.engine.cli.command_line import CommandLine
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.training_checks import check_training
from project.engine.runtime.fsdp2 import FSDP2Strategy, check_shardable
from project.engine.runtime.process import command_process
from project.engine.runtime.rendezvous import FirstProcess, prepare_rendezvous
from project.engine.runtime.startup import is_first_process, update_activity
from project.engine.task import Task
from project.engine.tracking import experiments, store
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.recovery import RECOVERED, recover_all
from project.engine.training.callbacks import build_fit
from project.engine.training.earlier_run import (
    EarlierRun,
    check_can_continue,
    check_has_ended,
    check_unchanged,
    find_earlier_run,
)
from project.engine.training.fit_run import open_run
from project.engine.training.header import print_fit, print_line, print_run
from project.engine.training.registration_checks import check_register
from project.engine.training.rerun import RERUN_OF, changes_since, find_repeated_run
from project.engine.training.stop import Interrupts


class Job:
    """A fit that is built and checked.

    Args:
        cli: The data, the model, the trainer and their settings.
        earlier: The run that the fit continues; None if it starts a run.

    Attributes:
        trainer: The trainer, with the MLflow logger unless `trainer.logger` is false.
        logger: The MLflow logger of the trainer; None if nothing is tracked.
        model: The model to train.
        datamodule: The data; on the first rank its splits are loaded, if it is a `DescribedDataModule`.
        data: What is known about the data.
        resume_from: Checkpoint to resume from, or None.
    """

    def __init__(self, cli: FitCLI, earlier: EarlierRun | None) -> None:
        self.cli, self.earlier = cli, earlier
        self.trainer, self.model, self.datamodule, self.data = cli.trainer, cli.model, cli.datamodule, cli.data
        self.logger = MLflowLogger.of(cli.trainer)
        self._start = monotonic()
        self.resume_from = Path(earlier.checkpoint) if earlier and earlier.checkpoint else None

    @property
    def seconds(self) -> float:
        """Time since the fit was built, with its checks, its training and its test."""
        return monotonic() - self._start


@contextmanager
def open_job(argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> Iterator[Job]:
    """Build and check a fit, and open its MLflow run for a block of code.

    Args:
        argv: Options of `fit`.
        callbacks: More callbacks for the trainer.

    Raises:
        SystemExit: 2 if the input is bad, before a run is created; 130 or 143 if this process is interrupted; 0 if a
            restarted command has nothing left to do.
    """
    with ExitStack() as stack:
        stack.enter_context(command_process())
        update_activity("checking data, model and store")
        # Signals come first, because a check may take hours, such as a download.
        interrupts = stack.enter_context(Interrupts("the next fit or python -m project.sync closes the run"))
        with exit_on_bad_input(), interrupts.explained("no run was started"):
            first_process = FirstProcess()
            job = _build(CommandLine.parse(argv), [interrupts, *callbacks], first_process)
            check_can_shard(job.trainer, job.model)
            first_process.compute("checks", lambda: _check(job))
            _store = prepare_rendezvous(job.trainer)  # It serves the other processes while this function runs.
        stack.enter_context(open_run(job.cli, job.earlier, first_process, interrupts))
        if job.trainer.is_global_zero:
            print_fit(job.cli)
            print_run(job.logger, resumed=job.earlier is not None)
            for line in _undeclared(job):
                print(line, flush=True)
            _print_changes(job)
        yield job


def _build(command: CommandLine, callbacks: Sequence[Callback], first_process: FirstProcess) -> Job:
    found = first_process.compute("earlier run", lambda: find_earlier_run(command))
    earlier = EarlierRun(*found) if found else None
    if earlier and earlier.is_finished:  # A job that SLURM has restarted repeats all of its commands.
        if is_first_process():
            print(f"run {earlier.run_id} of this command has finished before the restart", flush=True)
        raise SystemExit(0)
    callbacks = [*callbacks, *([CurrentSettings()] if earlier else [])]
    settings = earlier.settings if earlier else None
    if (reference := command.rerun) is not None:
        run_id, settings = first_process.compute("repeated run", lambda: find_repeated_run(reference))
        command = replace(command, rerun=run_id)
    with TemporaryDirectory() as folder:
        if settings is not None:
            (file := Path(folder) / store.CONFIG_FILE).write_text(settings, encoding="utf-8")
            command = command.with_settings(file)
        return Job(build_fit(command, callbacks), earlier)


def check_can_shard(trainer: Trainer, model: LightningModule) -> None:
    """Raise ValueError if FSDP2 is the strategy and cannot shard the model."""
    if not isinstance(trainer.strategy, FSDP2Strategy):
        return
    if isinstance(model, Task):
        check_shardable(model.net, compiled=model.compile_net)
    elif not is_overridden("configure_model", model):
        raise ValueError(
            f"--strategy fsdp: {type(model).__name__} does not shard itself in configure_model; use "
            "--strategy ddp, or derive it from project.tasks.Task"
        )


def _check(job: Job) -> None:
    """Check the data, the first step, the store and the run to continue, in the first process.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is invalid.
    """
    if not job.trainer.is_global_zero:  # Lightning starts other processes after the checks of the first one.
        return
    if job.earlier:
        check_unchanged(job.earlier, job.cli)
    check_training(job.cli)
    client = store.connect()
    if (name := job.cli.command.register) is not None:
        check_register(name, job.cli, client)
    if job.earlier:
        check_has_ended(job.earlier)
    if RECOVERED not in os.environ:
        recover_all(client)
    if job.earlier:
        check_can_continue(job.earlier, job.cli, client)
    elif job.logger is not None:
        experiments.experiment_id(client, job.logger.experiment_name)


def _print_changes(job: Job) -> None:
    """Print whether the metrics of a repeated run can be expected again, and record which run it is."""
    if (run_id := job.cli.command.rerun) is None:
        return
    if job.logger is not None:
        job.logger.set_tags({RERUN_OF: run_id})
    print_line("rerun", f"of {run_id}")
    with best_effort(job.logger, "rerun", "the run is not compared with the one that it repeats"):
        for line in changes_since(run_id, job.cli) or ["the same code, packages, data and devices"]:
            print_line("", line)


def _undeclared(job: Job) -> list[str]:
    """Return a line that names what the run lacks, because the data and the model do not declare it."""
    lacking = []
    if job.data is not job.datamodule:
        lacking += ["the data's digest and sizes", "exact resume within an epoch"]
    if (checkpoint := RunCheckpoint.of(job.trainer)) is None or checkpoint.monitor is None:
        lacking += ["a best checkpoint (the last one takes its place)"]
    if not isinstance(job.model, Task):
        lacking += ["a model for MLflow to serve"]
    names = f"{type(job.datamodule).__name__} and {type(job.model).__name__}"
    return [f"the run lacks what {names} do not declare: {', '.join(lacking)}"] if lacking else []
