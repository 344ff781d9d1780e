"""A fit from its first signal to its last: the command line, the MLflow run around it, and its checkpoints."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from uuid import uuid4

import torch
from lightning import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from mlflow.entities import RunStatus

from project.engine.checkpoints import (
    CurrentSettings,
    RunCheckpoint,
    check_not_complete,
    check_optimizer,
    check_version,
    check_weights,
    data_state,
    newest_checkpoint,
    use_folder,
)
from project.engine.cli import config_groups
from project.engine.cli.fit_cli import FitCLI, flatten
from project.engine.cli.terminal import quiet
from project.engine.cli.trainer_checks import check_resumable
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.runtime.fsdp2 import FSDP2Strategy, check_shardable
from project.engine.runtime.output import lost_output
from project.engine.runtime.rendezvous import Meeting, prepare_rendezvous
from project.engine.task import Task
from project.engine.tracking import store
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.recovery import RECOVERED, is_held, recover_all, recover_run
from project.engine.tracking.secrets import redact, redact_options
from project.engine.training.restarts import RUN_ID_VARIABLE, launch_tag, run_before_restart
from project.engine.training.run_status import mlflow_run_status
from project.engine.training.serving import save_model
from project.engine.training.stop import Interrupted, Interrupts
from project.engine.training.supervision import Supervisor


class Job:
    """What `fit` works with, checked before there is a run.

    Args:
        argv: Options of `fit`.
        callbacks: More callbacks for the trainer.

    Attributes:
        trainer: With progress bar, checkpoints, and the MLflow logger unless `trainer.logger` is false.
        logger: The MLflow logger among those of the trainer; None if there is none.
        model: What is trained.
        datamodule: On the first rank its splits are loaded, if it is a `DescribedDataModule`.
        data: What is known about the data.
        resume_from: Checkpoint to resume from, or None.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault; there is no run yet.
    """

    def __init__(self, argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        quiet()
        keep_freed_memory()
        self._interrupts = Interrupts()
        self._interrupts.listen()
        self._typed = argv
        settings_argv, resumed = config_groups.split_resume(argv)
        self._restarted = not resumed
        self._meeting = Meeting()
        self._earlier_run, config, checkpoint = self._meeting.from_first("earlier run", lambda: _earlier(resumed))
        self.resume_from = Path(checkpoint) if checkpoint else None
        callbacks = [self._interrupts, *callbacks, *([CurrentSettings()] if self._earlier_run else [])]
        with TemporaryDirectory() as folder:
            (settings := Path(folder) / store.CONFIG_FILE).write_text(config or "", encoding="utf-8")
            given = ["--config", str(settings)] if config is not None else []
            self._cli = FitCLI([*given, *settings_argv], callbacks)
        self.trainer, self.model, self.datamodule = self._cli.trainer, self._cli.model, self._cli.datamodule
        self.logger = MLflowLogger.of(self.trainer)
        self.data = self._cli.data
        if isinstance(self.trainer.strategy, FSDP2Strategy):
            self._check_shardable()
        self._meeting.from_first("checks", self._check)
        self._supervisor = Supervisor(self.trainer, self._close_run)
        self._interrupts.on_stuck = lambda signum: self._supervisor.end("interrupted", signum)
        self._rendezvous = prepare_rendezvous(self.trainer)

    def _check(self) -> None:
        """Look at the data and the store, in the first process alone; every process builds everything."""
        if not self.trainer.is_global_zero:  # a process that Lightning started, after the checks
            return
        if self.data is self.datamodule:
            self.data.prepare_data()
            self.data.setup("fit")
            self.data.check_batch_size(self.trainer.world_size)
        self._cli.check_training()
        self._client = client = store.connect()
        # Before a restart by torchrun or a sweep, the attempt before this one has ended, maybe on another machine.
        if self._earlier_run and is_held(self._earlier_run, owner_is_gone=self._restarted):
            raise ValueError(
                f"--resume: run {self._earlier_run} is still running; stop it first, with Ctrl-C or SIGTERM "
                "(a run of a lost machine can be resumed three minutes after its last heartbeat)"
            )
        if RECOVERED not in os.environ:
            recover_all(client)
        if self.logger is not None and not self._earlier_run:
            store.experiment_id(client, self.logger.experiment_name)
        if self._earlier_run and self.resume_from:
            run = client.get_run(self._earlier_run)
            before, now = run.data.params.get("data"), flatten(self._cli.config)["data"]
            if before not in (None, now):
                raise ValueError(
                    f"--resume: got the data {now}, but the run used {before}; keep --data as it was, or start again "
                    "without --resume"
                )
            check_resumable(self._cli.callbacks)
            if not is_overridden("configure_model", self.model) or isinstance(self.model, Task):
                check_weights(self.resume_from, self.model)
            if isinstance(self.model, Task):
                check_optimizer(self.resume_from, self.model.make_optimizer(), self.model.optimizer)
            state = data_state(self.resume_from, self.datamodule)
            self.data.check_same_batches(state, self.trainer.world_size, self.trainer.limit_train_batches)
            finished = run.info.status == RunStatus.to_string(RunStatus.FINISHED)
            check_not_complete(self.resume_from, finished, self.trainer.max_epochs, self.trainer.max_steps)
        for line in (*self.data.found(), *self._undeclared()):
            print(line, flush=True)

    def _undeclared(self) -> list[str]:
        """Return a line on what the data and the model do not declare, which is therefore absent."""
        absent = []
        if self.data is not self.datamodule:
            absent += ["the data's digest and sizes", "exact resume within an epoch"]
        if (checkpoint := RunCheckpoint.of(self.trainer)) is None or checkpoint.monitor is None:
            absent += ["a best checkpoint (the last one is tested)"]
        if not isinstance(self.model, Task):
            absent += ["a model for MLflow to serve"]
        names = f"{type(self.datamodule).__name__} and {type(self.model).__name__}"
        return [f"{names} do not declare, so the run lacks: {', '.join(absent)}"] if absent else []

    def _check_shardable(self) -> None:
        """Raise ValueError if FSDP2 cannot shard the model."""
        if isinstance(self.model, Task):
            check_shardable(self.model.net, compiled=self.model.compile_net)
        elif not is_overridden("configure_model", self.model):
            raise ValueError(
                f"--strategy fsdp: {type(self.model).__name__} does not shard itself in configure_model; use "
                "--strategy ddp, or derive it from project.tasks.Task"
            )

    @contextmanager
    def run(self) -> Iterator[None]:
        """The MLflow run around a fit: its status says how the block ended, in the first process.

        Raises:
            SystemExit: The block was interrupted: 130 after Ctrl-C, 143 after SIGTERM.
        """
        try:
            with mlflow_run_status(self.logger), self._supervisor:
                self._meeting.from_first("run", self._start_run)
                yield
                if self.logger and (reason := lost_output()):
                    self.logger.set_tags({"output.error": reason})
        except Interrupted:
            if self.run_id:
                print(f"\ninterrupted; {self._how_to_resume(self.run_id)}", file=sys.stderr)
            # A process that Lightning started ends well when it ends as agreed.
            if not self.trainer.is_global_zero and self._interrupts.agreed and "TORCHELASTIC_RUN_ID" not in os.environ:
                sys.exit(0)
            raise
        finally:
            self._interrupts.restore_handlers()

    def _start_run(self) -> None:
        logger = self.logger
        if logger is None:
            use_folder(self.trainer, store.checkpoint_folder(f"untracked-{time():.0f}-{uuid4().hex[:6]}"))
        if logger is None or not self.trainer.is_global_zero:
            return
        if self._earlier_run:
            logger.resume(self._client, self._earlier_run, self._command(), flatten(self._cli.config))
        else:
            self._start_new_run(logger)
        logger.log_dataset(self.data.name, self.data.digest(), self.data.sizes(), self.data.source or self.data.name)
        logger.log_text(self._cli.settings_without_secrets(), store.CONFIG_FILE)
        assert logger.version is not None
        os.environ[RUN_ID_VARIABLE] = logger.version  # for the processes that Lightning starts
        use_folder(self.trainer, store.checkpoint_folder(logger.version))
        profiler = self.trainer.profiler  # type: ignore[attr-defined]
        profiler.dirpath = profiler.dirpath or str(store.profile_folder(logger.version))

    def _start_new_run(self, logger: MLflowLogger) -> None:
        trainer, checkpoint = self.trainer, RunCheckpoint.of(self.trainer)
        accelerator = trainer.accelerator.__class__.__name__.removesuffix("Accelerator")
        tags = {
            "strategy": str(self._cli.config.groups.strategy),
            "devices": f"{trainer.world_size} {accelerator}",
            "command": self._command(),
            **{f"data.skipped_in_{split}": str(count) for split, count in self.data.skipped.items()},
            **({"monitor": f"{checkpoint.monitor} ({checkpoint.mode})"} if checkpoint and checkpoint.monitor else {}),
        }
        logger.start(self._client, tags | launch_tag())
        logger.log_hyperparams(flatten(self._cli.config))

    def _close_run(self, status: str, reason: str) -> None:
        logger = self.logger
        if logger is not None and logger.version:
            logger.set_tags({"error": reason})
            logger.end(status)
        elif logger is not None and RUN_ID_VARIABLE in os.environ:  # the first process has ended
            recover_run(os.environ[RUN_ID_VARIABLE], status, reason)

    @property
    def run_id(self) -> str | None:
        """The MLflow run on the first rank; None elsewhere, and where nothing is tracked."""
        return self.logger.version if self.logger else None

    @property
    def best_checkpoint(self) -> str | None:
        """Path of the best checkpoint so far; without a monitored metric, of the last one."""
        checkpoint = RunCheckpoint.of(self.trainer)
        return checkpoint.best_model_path or checkpoint.last_if_unmonitored() if checkpoint else None

    def scores(self) -> Mapping[str, float]:
        """The metrics of the best checkpoint on the test split, or on the validation split if there is no test split.

        The validation split has a point for each validation in `val/*`, which this one does not join: training has
        logged the metrics of the best checkpoint as `best/val/*`.
        """
        trainer, model, data = self.trainer, self.model, self.datamodule
        if self.data.has_test and trainer.limit_test_batches and is_overridden("test_step", model):
            return _joined(trainer.test(model, data, ckpt_path=self.best_checkpoint, verbose=False))
        if not trainer.limit_val_batches or not is_overridden("validation_step", model):
            return {}
        loggers, trainer.loggers = trainer.loggers, [self.logger] if self.logger else []
        with self.logger.metrics_ignored() if self.logger else nullcontext():
            try:
                return _joined(trainer.validate(model, data, ckpt_path=self.best_checkpoint, verbose=False))
            finally:
                trainer.loggers = loggers

    def log_model(self) -> None:
        """Log the model of the best checkpoint, as MLflow serves it. One that cannot be served stays a checkpoint."""
        logger, inputs = self.logger, self.data.examples()
        if logger is None or self.best_checkpoint is None or inputs is None or not isinstance(self.model, Task):
            return
        folder: Path | None = None
        with best_effort(logger, "model", "the run has no model to serve, only its checkpoints"):
            folder = logger.model_folder("model")
            if folder is None:  # not the first rank
                return
            trained = self._trained_model(self.best_checkpoint)
            if (served := trained.serving_model()) is not None:
                save_model(folder, served, inputs, trained.serving_metadata())
                logger.log_saved_model(folder.name)
            return
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def best_epoch(self) -> int | None:
        """Number of the epoch of the best checkpoint, from 1."""
        checkpoint = RunCheckpoint.of(self.trainer)
        return checkpoint.best_epoch if checkpoint else None

    @property
    def data_is_a_choice(self) -> bool:
        """Whether the data is one of `--data NAME`."""
        return self._cli.config.groups.data in config_groups.choices("data")

    def search_command(self) -> str | None:
        """The sweep on this fit's data, if there is a search space for its model."""
        now, plain = flatten(self._cli.config), self._cli.plain
        model, data = now["groups.model"], now["groups.data"]
        if model not in config_groups.choices("search"):
            return None
        options = ["--data", data] if data != config_groups.DEFAULTS["data"] else []
        if (root := now.get("data.root")) != plain.get("data.root"):
            options += ["--data.root", redact(str(root))]
        return shlex.join(["python", "-m", "project.sweep", "--search", model, *options, "--n_trials=8", "--n_jobs=2"])

    def _trained_model(self, checkpoint: str) -> Task:
        """A new model with the weights of a checkpoint, on the CPU, whatever the strategy made of the first."""
        model: Task = self._cli.instantiate().model
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        return model

    def _how_to_resume(self, run_id: str) -> str:
        if self.logger and self.logger.status == "FINISHED":
            return "the run is finished; python -m project.sync delivers what its store lacks"
        if newest_checkpoint(store.checkpoint_folder(run_id), required=False):
            return f"continue with: python -m project.fit --resume {run_id}"
        return "there is no checkpoint to resume from yet"

    def _command(self) -> str:
        return shlex.join(["python", "-m", "project.fit", *redact_options(self._typed)])


def _joined(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of all dataloaders, whose names differ."""
    return {name: value for each in scores for name, value in each.items()}


def _earlier(resumed: str | None) -> tuple[str | None, str | None, str | None]:
    """Find what this fit continues.

    Args:
        resumed: The run of `--resume`.

    Returns:
        The run, its settings as YAML, and its newest checkpoint. A process that was started again, by torchrun or a
        sweep, has its whole command line, and so no settings.
    """
    run = resumed or run_before_restart()
    if run is None:
        return None, None, None
    config = None
    if resumed:
        with TemporaryDirectory() as folder:
            config = store.config_of(resumed, folder).read_text(encoding="utf-8")
    checkpoint = newest_checkpoint(store.checkpoint_folder(run), required=bool(resumed))
    if checkpoint:
        check_version(checkpoint)
    return run, config, str(checkpoint) if checkpoint else None
