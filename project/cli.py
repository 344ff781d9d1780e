"""The command line: LightningCLI with groups of settings, and the checks that come before a run."""

import os
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from project import groups
from project.checkpoints import (
    DurableCheckpointIO,
    FiniteLoss,
    Interrupted,
    Interrupts,
    RunCheckpoint,
    newest_checkpoint,
)
from project.classifier import ImageClassifier
from project.data import ImageDataModule
from project.devices import devices_for
from project.errors import explain
from project.processes import Together
from project.terminal import ProgressBar, quiet
from project.tracking import store
from project.tracking.logger import MLflowLogger
from project.tracking.recovery import recover_all, recover_run
from project.tracking.report import TestReport
from project.tracking.run import ended_truly
from project.tracking.throughput import Throughput

_LONGEST_NAME = 200


class FitCLI(LightningCLI):
    """Parse a command line, build data, model and trainer, and check that they can work together.

    Args:
        argv: Options of `fit`.

    Attributes:
        datamodule: On the first rank its splits are loaded.
        model: The classifier.
        trainer: With progress bar, checkpoints, and the MLflow logger unless `trainer.logger` says otherwise.
        resume_from: Checkpoint to go on from, or None.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault; there is no run yet.
    """

    datamodule: ImageDataModule
    model: ImageClassifier
    trainer: Trainer

    def __init__(self, argv: Sequence[str]) -> None:
        quiet()
        self.interrupts = Interrupts()
        self.interrupts.listen()
        self.together = Together(self._close_as_failed)
        self.argv, self.resume_id = groups.split_resume(argv)
        self.resume_from: str | None = None
        with TemporaryDirectory() as folder:
            if self.resume_id:
                self.argv = ["--config", str(store.config_of(self.resume_id, folder)), *self.argv]
                self.resume_from = newest_checkpoint(store.checkpoint_folder(self.resume_id))
            self._parse_and_build()
        self._check()

    def _parse_and_build(self) -> None:
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={
                "usage": groups.USAGE,
                "description": groups.description(),
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            auto_configure_optimizers=False,
            run=False,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for group in groups.GROUPS:
            parser.add_argument(
                f"--groups.{group}",
                type=str | None,
                help=f"--{group} NAME, a file of configs/{group}/ (set by it)",
            )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for source, target in {"channels": "in_channels"}.items() | {
            (name, name) for name in ("num_classes", "image_size", "mean", "std")
        }:
            parser.link_arguments(f"data.{source}", f"model.{target}", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        expanded, chosen = groups.expand(self.argv)
        self.plain: dict[str, Any] = {}
        try:
            self.plain = flatten(parser.parse_args(groups.base(chosen)))
            self.config = parser.parse_args(expanded)
        except ArgumentError as error:
            raise ValueError(explain(str(error), self.plain)) from error

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            # What a constructor says of its arguments, jsonargparse reports as a mismatch of types.
            said = error.__cause__ or error.__context__
            if str(error).startswith("Does not validate") and isinstance(said, ValueError | OSError):
                raise said from None
            raise

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        every_n_steps = self.config.trainer.log_every_n_steps
        self.trainer_defaults["callbacks"] = [
            ProgressBar(),
            FiniteLoss(every_n_steps),
            Throughput(every_n_steps),
            TestReport(self.datamodule.class_names),
            self.interrupts,
            self.together,
        ]
        if self.config.trainer.logger in (None, True):
            experiment = self.config.groups.experiment or self.datamodule.name
            kwargs["logger"] = MLflowLogger(experiment, self._run_name())
        kwargs["plugins"] = [*(self.config_init.trainer.plugins or []), DurableCheckpointIO()]
        return super().instantiate_trainer(**kwargs, **devices_for(self.config.trainer))

    def _check(self) -> None:
        # Every process builds everything; the first one alone looks at the data and the store.
        if self.trainer.is_global_zero:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
            self.datamodule.check_batch_size(self.trainer.world_size)
            self.client = store.connect()
            recover_all(self.client)

    @contextmanager
    def run(self) -> Iterator[None]:
        """The MLflow run around a fit: its status says how the block ended, in the first process.

        Raises:
            SystemExit: The block was interrupted: 130 after Ctrl-C, 143 after SIGTERM.
        """
        self._start_run()
        try:
            with ended_truly(self.trainer):
                yield
        except Interrupted:
            if self.run_id:
                print(f"\ninterrupted; go on with: python -m project.fit --resume {self.run_id}", file=sys.stderr)
            # A process that Lightning started ends well when it ends as agreed.
            if not self.trainer.is_global_zero and "TORCHELASTIC_RUN_ID" not in os.environ:
                sys.exit(0)
            raise
        finally:
            self.together.end()

    def _start_run(self) -> None:
        logger = self.trainer.logger
        if not isinstance(logger, MLflowLogger) or not self.trainer.is_global_zero:
            return
        if self.resume_id:
            logger.resume(self.client, self.resume_id, self.command(), flatten(self.config))
        else:
            self._start_new_run(logger)
        if logger.version and isinstance(self.trainer.checkpoint_callback, RunCheckpoint):
            self.trainer.checkpoint_callback.dirpath = str(store.checkpoint_folder(logger.version))

    def _close_as_failed(self, reason: str) -> None:
        logger, checkpoint = self.trainer.logger, self.trainer.checkpoint_callback
        if isinstance(logger, MLflowLogger) and logger.version:
            logger.set_tags({"error": reason})
            logger.end("FAILED")
        elif isinstance(checkpoint, RunCheckpoint) and checkpoint.dirpath:  # the first process is no more
            recover_run(Path(checkpoint.dirpath).name, "FAILED", reason)

    def _start_new_run(self, logger: MLflowLogger) -> None:
        trainer = self.trainer
        logger.start(
            self.client,
            {
                "strategy": str(self.config.groups.strategy),
                "devices": f"{trainer.world_size} {trainer.accelerator.__class__.__name__.removesuffix('Accelerator')}",
                "command": self.command(),
            },
        )
        logger.log_hyperparams(flatten(self.config))
        logger.log_text(self.parser.dump(self.config, skip_unset=False), store.CONFIG_FILE)
        data = self.datamodule
        logger.log_dataset(
            data.name,
            data.digest() if data.splits else "",
            {split: len(images) for split, images in data.splits.items()},
            str(getattr(data, "root", data.name)),
        )

    @property
    def run_id(self) -> str | None:
        """The MLflow run on the first rank; None elsewhere, and where nothing is tracked."""
        return self.trainer.logger.version if isinstance(self.trainer.logger, MLflowLogger) else None

    @property
    def best_checkpoint(self) -> str | None:
        """Path of the best checkpoint so far."""
        checkpoint = self.trainer.checkpoint_callback
        return checkpoint.best_model_path or None if isinstance(checkpoint, RunCheckpoint) else None

    def model_folder(self) -> Path | None:
        """Where to save the model for `log_model`; None on other ranks than the first, and untracked."""
        logger = self.trainer.logger
        return logger.model_folder("model") if isinstance(logger, MLflowLogger) else None

    def log_model(self, folder: Path) -> None:
        """Log the MLflow model in `model_folder()`."""
        if isinstance(self.trainer.logger, MLflowLogger):
            self.trainer.logger.log_saved_model(folder.name)

    def trained_model(self, checkpoint: str) -> ImageClassifier:
        """A new model with the weights of a checkpoint, on the CPU, whatever the strategy made of the first."""
        model: ImageClassifier = self.parser.instantiate(self.config).model
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        return model

    def command(self, *options: str) -> str:
        """The command that was typed, with other options behind it."""
        return shlex.join(["python", "-m", "project.fit", *self.argv, *options])

    def _run_name(self) -> str:
        chosen = self.config.groups
        changed = {
            key: value
            for key, value in flatten(self.config).items()
            if value != self.plain.get(key) and not key.startswith("groups.") and not key.endswith(".root")
        }
        words = [f"{key.rpartition('.')[2]}={value}" for key, value in changed.items()]
        return " ".join([f"{self.datamodule.name}-{chosen.model}-{chosen.strategy}", *words])[:_LONGEST_NAME]


def flatten(config: Namespace) -> dict[str, Any]:
    """Settings by the names that they have on the command line."""
    return {
        key.replace(".init_args", "").removesuffix(".class_path"): value
        for key, value in config.clone().items(branches=False)
        if key != "config" and not key.endswith("__path__")
    }
