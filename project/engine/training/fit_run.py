"""The MLflow run around a fit, whose status shows how the fit ended."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep, time
from uuid import uuid4

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from project.engine.checkpoints.checkpoint import RunCheckpoint, use_folder
from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.settings import flatten
from project.engine.cli.trainer_checks import reason_against_resume
from project.engine.runtime.failure import RunNote
from project.engine.runtime.launcher import TORCHRUN
from project.engine.runtime.output import lost_output
from project.engine.runtime.rendezvous import FirstProcess
from project.engine.runtime.startup import print_interrupted
from project.engine.runtime.stop_signals import INTERRUPTED
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.names import metric_name
from project.engine.tracking.recovery import recover_run
from project.engine.tracking.secrets import redact, redact_options
from project.engine.tracking.tags import COMMAND, DEVICES, MONITOR
from project.engine.training.describing import describe_start, devices_text, experiment_note
from project.engine.training.earlier_run import EarlierRun
from project.engine.training.restarts import RUN_ID_VARIABLE, launch_tag
from project.engine.training.stop import Interrupted, Interrupts
from project.engine.training.supervision import Supervisor

_LAST_LINES = 20
_TRACEBACK = "traceback.txt"
_OTHER_LOGGER = (
    "this is a method of another logger: add --trainer.logger TensorBoardLogger --trainer.logger.save_dir logs, or "
    "another one; it is then self.logger of the module, and self.loggers has both"
)
# Parts of errors that do not name their remedy.
_REMEDIES = {
    "'MlflowClient' object has no attribute": _OTHER_LOGGER,
    "'MLflowLogger' object has no attribute": _OTHER_LOGGER,
    "OutOfMemoryError": "use less memory: --precision bf16-mixed; or a smaller --data.batch_size with "
    "--trainer.accumulate_grad_batches, in a new run if the checkpoint is within an epoch",
    "Expected more than 1 value per channel": "a batch has one sample, for which batch norm has no variance; choose a "
    "batch size that leaves two or more for the last batch, or drop_last=True in your own loader",
    "ReduceLROnPlateau conditioned on metric": "step the schedule when its metric is logged: for a metric of the "
    "validation, 'interval': 'epoch' and the 'frequency' of --trainer.check_val_every_n_epoch; or 'strict': False",
    "parameters that were not used": "add --trainer.strategy ddp_find_unused_parameters_true",
    "total_steps, but got -1": "the data do not declare the number of their batches; give --trainer.max_steps",
}
_SAME_ERROR_WITHIN_S = 1.0


@contextmanager
def open_run(
    cli: FitCLI, earlier: EarlierRun | None, first_process: FirstProcess, interrupts: Interrupts
) -> Iterator[None]:
    """Start the run for a block of code, in which all processes of the fit are watched, and close it.

    Args:
        cli: The fit.
        earlier: The run to continue; None starts a run.
        first_process: Starts the run before other processes continue.
        interrupts: The signals of this process.

    Raises:
        Interrupted: The block was interrupted.
    """
    run = _FitRun(cli, earlier)
    supervisor = Supervisor(cli.trainer, run.close)
    interrupts.on_stuck = lambda signum: supervisor.end("interrupted", signum)
    try:
        with (
            store.for_own_runs(),
            _status(run.logger),
            supervisor,
            interrupts.as_interruption(),
            _left_to_first_rank(cli.trainer, interrupts),
        ):
            first_process.compute("run", run.start)
            if run.logger and run.logger.version:
                interrupts.outcome = run.continuation
            yield
            if run.logger and (reason := lost_output()):
                run.logger.set_tags({"output.error": reason})
    except Interrupted:
        if cli.trainer.is_global_zero:
            print_interrupted(run.how_to_resume())
        # A process that Lightning started must exit with 0 after all ranks have agreed to stop.
        if not cli.trainer.is_global_zero and interrupts.agreed and TORCHRUN not in os.environ:
            sys.exit(0)
        raise
    except Exception as error:
        if run.logger is not None:
            error.add_note(run.about_failure(error))
        raise


@contextmanager
def _left_to_first_rank(trainer: Trainer, interrupts: Interrupts) -> Iterator[None]:
    """After an error, give the first rank a second to end this process, as it does if it has the same error.

    Otherwise each rank would print it.

    Raises:
        Interrupted: The first rank ended this process.
    """
    try:
        yield
    except Exception:
        if not trainer.is_global_zero and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):  # type: ignore[attr-defined]
            deadline = monotonic() + _SAME_ERROR_WITHIN_S
            while not interrupts.signum and monotonic() < deadline:
                sleep(0.05)
            if interrupts.signum:
                raise Interrupted(interrupts.signum) from None
        raise


@contextmanager
def _status(logger: MLflowLogger | None) -> Iterator[None]:
    """Close the logger's run as FINISHED, as KILLED after a signal, or as FAILED after any other error."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except SystemExit as error:
        status = "KILLED" if error.code in INTERRUPTED else "FAILED"
        raise
    except BaseException as error:
        if logger is not None:
            lines = traceback.format_exception(error)
            logger.set_tags({"error": "".join(lines[-1:]).strip(), "traceback": "".join(lines[-_LAST_LINES:])})
            logger.log_text("".join(lines), _TRACEBACK)
        raise
    finally:
        if logger is not None:
            logger.end(status)


class _FitRun:
    def __init__(self, cli: FitCLI, earlier: EarlierRun | None) -> None:
        self._cli, self._earlier = cli, earlier
        self._command = shlex.join(["python", "-m", "project.fit", *redact_options(cli.command.argv)])
        self.logger = MLflowLogger.of(cli.trainer)

    def start(self) -> None:
        logger, trainer, data = self.logger, self._cli.trainer, self._cli.data
        if logger is None:
            use_folder(trainer, store.checkpoint_folder(f"untracked-{time():.0f}-{uuid4().hex[:6]}"))
        if logger is None or not trainer.is_global_zero:
            return
        client, settings = store.connect(), flatten(self._cli.config)
        if self._earlier:
            logger.resume(client, self._earlier.run_id, self._command, settings)
            logger.set_tags(self._tags())
        else:
            checkpoint = RunCheckpoint.of(trainer)
            monitor = checkpoint.monitor if checkpoint else None
            tags = self._tags() | {COMMAND: self._command} | launch_tag(self._cli.command.argv)
            logger.start(client, tags, experiment_note(self._cli, self._command), monitor)
            logger.log_hyperparams(settings)
            describe_start(self._cli, logger)
        logger.log_dataset(data)
        logger.log_text(self._cli.settings_without_secrets(), store.CONFIG_FILE)
        assert logger.version is not None
        os.environ[RUN_ID_VARIABLE] = logger.version  # for the processes that Lightning starts
        use_folder(trainer, folder := store.checkpoint_folder(logger.version))
        folder.mkdir(parents=True, exist_ok=True)  # A module may write files to it.
        profiler = trainer.profiler  # type: ignore[attr-defined]
        profiler.dirpath = profiler.dirpath or str(store.profile_folder(logger.version))

    def _tags(self) -> dict[str, str]:
        """Return the tags that a resumed run sets again."""
        checkpoint, skipped = RunCheckpoint.of(self._cli.trainer), self._cli.data.skipped
        tags = {f"data.skipped_in_{split}": str(count) for split, count in skipped.items()}
        if checkpoint is not None and checkpoint.monitor is not None:
            tags[MONITOR] = f"{metric_name(checkpoint.monitor)} ({checkpoint.mode})"
        return tags | {"strategy": self._cli.strategy_name, DEVICES: devices_text(self._cli.trainer)}

    @property
    def _run_id(self) -> str | None:
        """The id of the run, which the processes that Lightning starts know from their environment."""
        return None if self.logger is None else self.logger.version or os.environ.get(RUN_ID_VARIABLE)

    def close(self, status: str, reason: str) -> str:
        logger = self.logger
        if logger is not None and logger.version:
            logger.set_tags({"error": reason})
            logger.end(status)
        elif self._run_id:  # The first process has ended.
            recover_run(self._run_id, status, reason)
        return self.how_to_resume()

    @property
    def continuation(self) -> str:
        """The command that continues a run with a checkpoint, or why it cannot be continued."""
        if reason := reason_against_resume(self._cli.trainer.callbacks):  # type: ignore[attr-defined]
            return f"the run cannot be resumed: {reason}"
        return f"continue with: python -m project.fit --resume {self._run_id}"

    def how_to_resume(self) -> str:
        if self.logger is None:
            return "the run is not tracked, and cannot be resumed"
        if self._run_id is None:
            return "no run was started"
        if self.logger.status == "FINISHED":
            return "the run is finished; python -m project.sync delivers what its store lacks"
        if newest_checkpoint(store.checkpoint_folder(self._run_id), required=False):
            return self.continuation
        return "the run has no checkpoint to resume from yet"

    def about_failure(self, error: Exception) -> RunNote:
        """Return lines about the run of an error: the run, its whole traceback, and how to resume it."""
        assert self.logger is not None
        trainer, lines = self._cli.trainer, []
        if run_id := self._run_id:
            lines.append(f"run\n  {run_id}")
        if not trainer.is_global_zero:
            lines.append(f"rank\n  {trainer.global_rank}")
            if run_id:  # The artifact has the traceback of the first rank, which fails in a collective.
                file = store.checkpoint_folder(run_id) / f"rank{trainer.global_rank}-{_TRACEBACK}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(redact("".join(traceback.format_exception(error))), encoding="utf-8", errors="replace")
                lines.append(f"traceback\n  {file}")
        elif self.logger.artifact_uri:
            lines.append(f"traceback\n  {store.shown_artifact(self.logger.artifact_uri, _TRACEBACK)}")
            lines.append(self.how_to_resume())
        text = f"{type(error).__name__}: {error}"
        lines += [remedy for part, remedy in _REMEDIES.items() if part in text]
        return RunNote("\n".join(lines))
