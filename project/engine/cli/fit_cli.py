"""The command line: LightningCLI with groups of settings, and errors in one line."""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from inspect import signature
from pkgutil import resolve_name
from typing import Any, Self

from jsonargparse import Namespace, set_parsing_settings
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.seed import isolate_rng
from typing_extensions import override

from project.data import LabelledImages
from project.engine.checkpoints import DurableCheckpointIO, FiniteLoss, RunCheckpoint
from project.engine.cli import config_groups
from project.engine.cli.errors import explain
from project.engine.cli.parser import FitParser
from project.engine.cli.rehearsal import check_monitors, rehearse, step_refusal
from project.engine.cli.terminal import progress
from project.engine.cli.trainer_checks import (
    check_callbacks,
    check_lengths,
    check_not_sharded,
    check_settings,
    steps_before_validation,
)
from project.engine.loading import StepSeed
from project.engine.runtime.devices import devices_for
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.secrets import HIDDEN, redact_setting
from project.engine.tracking.throughput import Throughput
from project.tasks.classification import ImageClassifier
from project.tasks.report import ClassificationReport

_LONGEST_NAME = 200

# A setting that names a class must not name what runs commands; jsonargparse knows what does.
set_parsing_settings(import_path_denylist=[])


class FitCLI(LightningCLI):
    """Parse a command line, and build data, model and trainer.

    Args:
        argv: Options of `fit`, without `--resume`.
        callbacks: Callbacks of the trainer besides those that every fit has.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault.
    """

    datamodule: LabelledImages
    model: ImageClassifier
    trainer: Trainer

    def __init__(self, argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.argv = argv
        self._more_callbacks = callbacks
        super().__init__(
            ImageClassifier,
            LabelledImages,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=FitParser,
            parser_kwargs={
                "usage": config_groups.USAGE,
                "description": config_groups.description(),
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            auto_configure_optimizers=False,
            run=False,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: a model is copied by weight averaging, and its optimizer's factory refers to this."""
        return self

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for group in config_groups.GROUPS:
            parser.add_argument(
                f"--groups.{group}",
                type=str | None,
                help=f"set by --{group} NAME, a file in configs/{group}/",
            )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for source, target in {"channels": "in_channels"}.items() | {
            (name, name) for name in ("num_classes", "image_size", "mean", "std")
        }:
            parser.link_arguments(f"data.{source}", f"model.{target}", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        expanded, chosen = config_groups.expand(self.argv)
        self.plain: dict[str, Any] = {}
        try:
            self.plain = flatten(parser.parse_args(config_groups.base(chosen)))
            self.config = parser.parse_args(expanded)
        except ArgumentError as error:
            settings = [name for name in self.plain if not name.startswith("groups.")]
            raise ValueError(explain(str(error), [*config_groups.NAMES, *settings])) from error

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "cannot represent an object" in str(error):
                raise ValueError(explain(str(error), self.plain)) from None
            # What a constructor says of its arguments, jsonargparse reports as a mismatch of types.
            said = error.__cause__ or error.__context__
            if str(error).startswith("Does not validate") and isinstance(said, ValueError | OSError):
                raise said from None
            raise
        except ModuleNotFoundError as error:
            raise ValueError(f"a setting needs a package that is not installed: {error}") from error

    @override
    def before_instantiate_classes(self) -> None:
        self._check_no_secret_is_missing()
        self._check_loggers()
        check_settings(self.config.trainer, self.config.checkpoint.monitor)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings, given, logger = self.config.trainer, self.callbacks, self._mlflow_logger()
        check_callbacks(given)
        if logger is not None:
            kwargs["logger"] = [logger, *self._loggers_of_the_user()]
        every_n_steps = settings.log_every_n_steps
        bar = settings.enable_progress_bar is not False and not _holds(given, LightningProgressBar)
        monitor = settings.logger is not False and not _holds(given, LearningRateMonitor)
        self.trainer_defaults["callbacks"] = [
            *([progress()] if bar else []),
            *([LearningRateMonitor(logging_interval="step")] if monitor else []),
            FiniteLoss(every_n_steps),
            StepSeed(),
            Throughput(every_n_steps),
            ClassificationReport(self.datamodule.class_names, logger),
            *self._more_callbacks,
        ]
        plugins = _listed(self.config_init.trainer.plugins)
        if _holds(plugins, CheckpointIO):
            raise ValueError(
                "--trainer.plugins: got a CheckpointIO, but this project's DurableCheckpointIO writes the checkpoints"
            )
        kwargs["plugins"] = [*plugins, DurableCheckpointIO()]
        return super().instantiate_trainer(**kwargs, **devices_for(settings))

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks of `--trainer.callbacks`."""
        return _listed(self.config_init.trainer.callbacks)

    def check_training(self) -> None:
        """Try what training will do, on the first rank, with the data set up.

        Raises:
            ValueError: The settings do not fit the data, or the first step would end the run.
        """
        data, trainer = self.datamodule, self.trainer
        check_not_sharded(trainer)
        batches: dict[str, int] = {split: len(data.batches(split, trainer.world_size)) for split in data.splits}
        check_lengths(trainer, batches)
        self._check_smallest_batch()
        if self.callbacks and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with isolate_rng():
                own = self.parser.instantiate(self.config)
                own.data.splits = data.splits
                callbacks, accelerator = _listed(own.trainer.callbacks), self.config.trainer.accelerator
                often = 0 < trainer.log_every_n_steps <= steps_before_validation(trainer, batches["train"])  # type: ignore[attr-defined]
                logged, early = rehearse(
                    own.model, own.data, callbacks, accelerator, logger=bool(trainer.loggers), often=often
                )
            check_monitors(callbacks, logged, None if self.config.trainer.val_check_interval in (None, 1.0) else early)

    def _check_smallest_batch(self) -> None:
        data, ranks = self.datamodule, self.trainer.world_size
        size = data.batches("train", ranks).smallest
        if reason := step_refusal(self.model, (size, data.channels, data.image_size, data.image_size)):
            images = len(data.splits["train"])
            raise ValueError(
                f"--data.batch_size: got {data.batch_size}, which makes batches of {size} of the {images:,} images of "
                f"train, on which the net cannot train; use another size: {reason}"
            )

    def _mlflow_logger(self) -> MLflowLogger | None:
        if self.config.trainer.logger is False:
            return None
        experiment = store.experiment_name(self.config.groups.experiment, self.datamodule.name)
        return MLflowLogger(experiment, self._run_name())

    def _loggers_of_the_user(self) -> list[Logger]:
        """The loggers of `--trainer.logger`, which are added to the project's own."""
        given = self.config_init.trainer.logger
        return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, Logger)]

    def _check_loggers(self) -> None:
        given = self.config.trainer.logger
        for one in given if isinstance(given, list) else [given]:
            name = str(getattr(one, "class_path", "")).rpartition(".")[2]
            if name.lower() == MLflowLogger.__name__.lower():
                raise ValueError(
                    f"--trainer.logger: got {name}, but each run is in MLflow already; leave it out, and name another "
                    "store by MLFLOW_TRACKING_URI"
                )

    def settings_without_secrets(self) -> str:
        """The settings as a YAML that `--config` accepts."""
        config = self.config.clone()
        for key, value in self.config.items(branches=False):
            if isinstance(value, str):
                config[key] = redact_setting(key, value)
        text: str = self.parser.dump(config, skip_unset=False, skip_validation=True)
        return text

    def _check_no_secret_is_missing(self) -> None:
        for key, value in flatten(self.config).items():
            if isinstance(value, str) and HIDDEN in value:
                raise ValueError(f"--{key}: got {value}: secrets are not stored with a run; pass the value again")

    def _run_name(self) -> str:
        chosen = self.config.groups
        changed = {
            key: value
            for key, value in flatten(self.config).items()
            if value != self.plain.get(key) and not key.startswith("groups.") and not key.endswith(".root")
        }
        said = {key: value for key, value in changed.items() if value != _default_of_chosen_class(key, changed)}
        words = [f"{key.rpartition('.')[2]}={redact_setting(key, str(value))}" for key, value in said.items()]
        return " ".join([f"{self.datamodule.name}-{chosen.model}-{chosen.strategy}", *words])[:_LONGEST_NAME]


def _listed(value: Any) -> list[Any]:
    """What Lightning takes as one object, as a list of them, or not at all."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _holds(objects: Sequence[object], kind: type) -> bool:
    return any(isinstance(entry, kind) for entry in objects)


def _default_of_chosen_class(key: str, changed: Mapping[str, Any]) -> Any:
    """The default of a setting of a class that was chosen instead of another one, which says nothing of a run."""
    owner, _, name = key.rpartition(".")
    if owner not in changed:
        return ...
    parameter = signature(resolve_name(changed[owner])).parameters.get(name)
    return parameter.default if parameter else ...


def flatten(config: Namespace) -> dict[str, Any]:
    """Settings by the names that they have on the command line."""
    return {
        key.replace(".init_args", "").removesuffix(".class_path"): value
        for key, value in config.clone().items(branches=False)
        if key != "config" and not key.endswith("__path__")
    }
