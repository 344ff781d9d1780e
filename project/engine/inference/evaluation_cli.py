"""The data, the model and the trainer of an evaluation, from the settings of a run and a command line."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

from lightning import Callback, LightningModule
from lightning.pytorch.loggers import Logger
from typing_extensions import override

from project.engine.cli import config_groups
from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.terminal import progress
from project.engine.data import plain
from project.engine.inference.options import OF_EVALUATION
from project.engine.inference.trained_run import TrainedRun
from project.engine.tracking import store
from project.engine.tracking.evaluation_logger import EvaluationLogger
from project.engine.tracking.silent import SilentLogger

# These settings of a run belong to its checkpoint or to training. With another `val_fraction`, for example, val would
# contain images on which the run was trained.
_REFUSED = (
    "--model", "--data.augmentation", "--data.split_seed", "--data.val_fraction", "--checkpoint", "--tracking",
    "--experiment", "--resume", "--rerun", "--config", "--print_config", "--max_epochs", "--trainer.max_",
    "--trainer.min_", "--trainer.limit_train_batches", "--trainer.overfit_batches", "--trainer.val_check_interval",
    "--trainer.check_val_every_n_epoch", "--trainer.num_sanity_val_steps", "--trainer.accumulate_grad_batches",
    "--trainer.gradient_clip_",
)  # fmt: skip
_NAMES = (*config_groups.NAMES, "split")
# Options of data, and the arguments of the model from which they follow.
_FOLLOWS = {"image_size": "image_size", "channels": "in_channels"}


class EvaluationCLI(FitCLI):
    """The run's settings with the changes of a command line.

    The model is built from the arguments that its data gave it in training, and other data must suit them. If
    the command line selects other data, its images get the size, the channels and the decoding of the run.

    Args:
        trained: The run.
        argv: The options.
        callbacks: The callbacks, in addition to those of the run's settings.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is invalid.
    """

    def __init__(self, trained: TrainedRun, argv: Sequence[str], callbacks: Sequence[Callback]) -> None:
        self._trained = trained
        self.logger = EvaluationLogger(trained.run_id, trained.step)
        command = CommandLine.parse(argv, _NAMES)
        runs = {"--resume": command.resume, "--rerun": command.rerun}
        for option in (*(name for name, run in runs.items() if run), *(option for option, _ in command.pairs)):
            if option.startswith(_REFUSED) and not option.startswith("--model.metrics"):
                raise ValueError(
                    f"{option}: belongs to the training, and an evaluation cannot change it; its options are "
                    f"{OF_EVALUATION}"
                )
        with TemporaryDirectory() as folder:
            (settings := Path(folder) / store.CONFIG_FILE).write_text(trained.settings, encoding="utf-8")
            command = command.with_settings(settings)
            super().__init__(command, lambda settings, given: [*progress(settings, given), *callbacks])

    @override
    def before_instantiate_classes(self) -> None:
        given = {option for option, _ in self.command.pairs}
        options = self.config.data.get("init_args", {})
        from_run = {name: self._trained.given_by_data.get(source) for name, source in _FOLLOWS.items()}
        for name, value in (from_run | self._trained.decoding).items():
            if name in options and value is not None and f"--data.{name}" not in given:
                options[name] = value
        super().before_instantiate_classes()

    @override
    def _given_by_data(self, kind: type[LightningModule]) -> dict[str, Any]:
        return self._trained.given_by_data or super()._given_by_data(kind)

    @override
    def _make_model(self, kind: type[LightningModule], /, *args: Any, **kwargs: Any) -> LightningModule:
        model, data = super()._make_model(kind, *args, **kwargs), self._made_data
        restored = {name for name, _ in model.named_buffers()}  # such as the mean and the deviation of the pixels
        for name, value in self._trained.given_by_data.items():
            if name not in restored and hasattr(data, name) and plain(getattr(data, name)) != value:
                raise ValueError(
                    f"--data: {type(data).__name__} has {name} {_brief(getattr(data, name))}, but the model of run "
                    f"{self._trained.run_id} was trained with {_brief(value)}"
                )
        return model

    @override
    def _mlflow_logger(self) -> EvaluationLogger | None:
        return None if self.config.trainer.logger is False else self.logger

    @override
    def _loggers_of_the_user(self) -> list[Logger]:
        # A module may call the methods of the first.
        return [SilentLogger(self.logger.save_dir) for _ in super()._loggers_of_the_user()]


def _brief(value: object) -> str:
    return shorten(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value), 100, placeholder=" …")
