"""LightningCLI with groups of settings, and errors in one line."""

import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pkgutil import resolve_name
from typing import Any, ClassVar, Self

import torch
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.checkpoints.durable import DurableCheckpointIO
from project.engine.cli import config_groups
from project.engine.cli.command_line import CommandLine
from project.engine.cli.explain import check_importable, explain
from project.engine.cli.known_options import KnownOptions, as_known
from project.engine.cli.parser import FitParser
from project.engine.cli.rehearsal import attributed
from project.engine.cli.settings import changed, check_secrets, flatten, listed, short_name, without_secrets
from project.engine.cli.trainer_checks import (
    check_callbacks,
    check_has_end,
    check_not_reloaded,
    check_settings,
    check_validates,
)
from project.engine.compat import integers_first
from project.engine.data import GIVEN_BY_DATA, described, plain
from project.engine.monitor import monitored
from project.engine.runtime.devices import devices_for
from project.engine.runtime.step_overhead import reduce_step_overhead
from project.engine.task import Task
from project.engine.task_checks import check_optimizer
from project.engine.tracking import experiments, names
from project.engine.tracking.logger import MLflowLogger

_ASYNCHRONOUS = (
    "deliver metrics and artifacts to the MLflow store while training continues; with false, training waits until the "
    "store has each of them"
)

MakeCallbacks = Callable[[Namespace, Sequence[Callback]], Sequence[Callback]]
"""Called with the settings of the trainer and the callbacks of `--trainer.callbacks`, makes the other callbacks."""


class FitCLI(LightningCLI):
    """The data, the model and the trainer of a command line.

    Any LightningModule and any LightningDataModule can be given. A `Task` and a `DescribedDataModule` declare more.

    Args:
        command: The command line; `--resume` is ignored.
        make_callbacks: Makes the callbacks that are not settings.

    Attributes:
        data: What is known about the data.
        default_settings: The settings of the chosen groups, without the changes of the command line.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault.
    """

    _shared_parser: ClassVar[FitParser | None] = None
    parser: FitParser
    datamodule: LightningDataModule
    model: LightningModule
    trainer: Trainer

    def __init__(self, command: CommandLine, make_callbacks: MakeCallbacks) -> None:
        self.command, self._make_callbacks = command, make_callbacks
        self.default_settings: dict[str, Any] = {}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=FitParser,
            parser_kwargs={"usage": config_groups.USAGE, "exit_on_error": False, "allow_abbrev": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            run=False,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself; weight averaging copies the model, whose optimizer's factory refers to this object."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, so that such a factory can be pickled; Lightning drops hyper-parameters that cannot be."""
        return {}

    @override
    def setup_parser(self, *options: Any) -> None:
        """Set up the parser once per process."""
        if FitCLI._shared_parser is None:
            register_type(torch.device)  # Otherwise the settings of a run would contain an error in place of a device.
            super().setup_parser(*options)
            FitCLI._shared_parser = self.parser
            self.parser.description = "All settings. python -m project.fit --help lists the choices of --GROUP NAME."
        self.parser = FitCLI._shared_parser
        self.parser.settings, self.parser.described, self.parser.file = {}, {}, ""

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Trainer, "trainer")
        integers_first(parser)
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)  # built after the data

    def _make_data(self, kind: type[LightningDataModule], /, *args: Any, **kwargs: Any) -> LightningDataModule:
        data: LightningDataModule = _made("--data", kind, *args, **kwargs)
        self._made_data = data
        return data

    def _make_model(self, kind: type[LightningModule], /, *args: Any, **kwargs: Any) -> LightningModule:
        given = self._given_by_data(kind)
        model: LightningModule = _made("--model", kind, *args, **kwargs, **given)
        storable = {}
        for name, value in given.items():
            with suppress(TypeError):  # `project.evaluate` then needs the data of the run.
                storable[name] = plain(value)
        setattr(model, GIVEN_BY_DATA, storable)
        return model

    def _given_by_data(self, kind: type[LightningModule]) -> dict[str, Any]:
        """Return the arguments of a model's class that come from the data."""
        given = {}
        for name in getattr(kind, "from_data", ()):
            if not hasattr(self._made_data, name):
                data = type(self._made_data).__name__
                raise ValueError(f"--model: {kind.__name__} needs {name} of the data, which {data} does not have")
            given[name] = getattr(self._made_data, name)
        return given

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for group in config_groups.GROUPS:
            parser.add_argument(
                f"--groups.{group}",
                type=str | None,
                help=f"set by --{group} NAME, a file in configs/{group}/",
            )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument("--tracking.asynchronous", type=bool, default=True, help=_ASYNCHRONOUS)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        try:
            self.config = self._parse(self.parser)
        except ArgumentError as error:
            # jsonargparse names only the beginning of a dotted option.
            empty = [option for option, value in self.command.pairs if value is None and option.startswith("--")]
            if empty and "expected one argument" in str(error):
                if (owner := empty[0].removesuffix(".help")) != empty[0]:
                    parent = owner.rpartition(".")[0]
                    page = f"{parent}.help" if parent.removeprefix("--") in self.default_settings else "--help all"
                    raise ValueError(f"{empty[0]}: {owner} is not a class; {page} explains it") from error
                raise ValueError(f"{empty[0]}: got no value; give {empty[0]} VALUE") from error
            check_importable(str(error))
            settings = [name for name in self.default_settings if not name.startswith("groups.")]
            known, where = [*self.command.names, *settings], f"{self.parser.file}: " if self.parser.file else ""
            raise ValueError(where + explain(str(error), known, self.parser, self.command.changes)) from error

    def _parse(self, parser: FitParser) -> Namespace:
        """Parse the defaults, then the changes on top of them."""
        command, defaults = self.command, None
        try:
            defaults = parser.parse_defaults(command.defaults)
        except ArgumentError:  # A class that was chosen may need arguments that are given as options.
            complete = dict(command.groups)
            for group in config_groups.CLASSES:
                try:
                    parser.parse_defaults(config_groups.base(config_groups.DEFAULTS | {group: command.groups[group]}))
                except ArgumentError:
                    complete[group] = config_groups.DEFAULTS[group]
            self.default_settings = flatten(parser.parse_defaults(config_groups.base(complete)))
            options = [*command.defaults, *command.changes]
        else:
            self.default_settings = flatten(defaults)
            parser.settings = self.default_settings
            parser.described = {name: resolve_name(defaults[name].class_path) for name in config_groups.CLASSES}
            if KnownOptions.load(command.defaults) is None:
                known = as_known(parser.texts(), self.default_settings, parser.types())
                known.save(command.defaults)
            options = command.changes
        settings: Namespace = parser.parse_args(options, namespace=defaults)
        self._check_order(flatten(settings))
        return settings

    def _check_order(self, settings: dict[str, Any]) -> None:
        """Raise ValueError for an option that was dropped because its class was chosen after it."""
        options = [(short_name(option.removeprefix("--")), value) for option, value in self.command.pairs]
        for index, (option, _) in enumerate(options):
            owner = option.rpartition(".")[0]
            later = [value for other, value in options[index:] if owner and other == owner]
            if later and option not in settings:
                raise ValueError(f"--{option}: has no effect, because --{owner} {later[-1]} follows and lacks it")

    def instantiate(self) -> Namespace:
        """Return new instances of data, model and callbacks, in a namespace like `config`.

        Data without loaders have those of the model.
        """
        makers = [(self._make_data, LightningDataModule, True), (self._make_model, LightningModule, True)]
        made: Namespace = self.parser.instantiate(self.config, instantiators=makers)
        loaders = [f"{split}_dataloader" for split in ("train", "val", "test", "predict")]
        if not any(is_overridden(name, made.data, LightningDataModule) for name in loaders):
            for name in loaders:
                setattr(made.data, name, getattr(made.model, name))
        return made

    @override
    def instantiate_classes(self) -> None:
        try:
            self.build()
        except ValueError as error:
            # jsonargparse reports an error of a constructor as a mismatch of types.
            reason = error.__cause__ or error.__context__
            nulls = [name for name, value in flatten(self.config).items() if value is None]
            given = [name for name in nulls if self.default_settings.get(name, name) is not None]
            if given and "NoneType" in str(reason):
                raise ValueError(f"got null for {', '.join(given)}; leave it out for the default ({reason})") from None
            if str(reason).startswith("Not a valid subclass"):  # A list was tried as one object first.
                cause = re.search(r"^  - ((?!Not a valid subclass|Expected a <).+(?:\n {4}.+)*)", str(error), re.M)
                reason = ValueError(cause[1]) if cause else reason
            if str(error).startswith("Does not validate") and isinstance(
                reason, ValueError | OSError | MisconfigurationException
            ):
                raise reason from None
            raise
        except ModuleNotFoundError as error:
            raise ValueError(f"a setting needs a package that is not installed: {error}") from error

    def build(self) -> None:
        """Make data, model and trainer."""
        self.config_init = self.instantiate()
        self.datamodule, self.model = self.config_init.data, self.config_init.model
        self.trainer = self.instantiate_trainer()

    @override
    def before_instantiate_classes(self) -> None:
        for name in ("trainer", "checkpoint", "tracking"):
            if not isinstance(given := self.config[name], Namespace):
                raise ValueError(f"--{name}: got {given!r}; expected settings, each with its name")
        check_secrets(flatten(self.config))
        self._check_loggers()
        check_settings(self.config.trainer)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.data = described(self.datamodule)
        if isinstance(self.model, Task):
            check_has_end(self.config.trainer)
            check_optimizer(self.model)
        if self.data is self.datamodule:
            check_not_reloaded(self.config.trainer)
        settings, given, logger = self.config.trainer, self.callbacks, self._mlflow_logger()
        checkpoint = self.config_init.checkpoint
        checkpoint.monitor, checkpoint.mode = monitored(self.model, checkpoint.monitor, checkpoint.mode)
        check_validates(settings, checkpoint.monitor)
        check_callbacks(given)
        if logger is not None:
            kwargs["logger"] = [*self._loggers_of_the_user(), logger]  # The first one is `logger` of the model.
        self.trainer_defaults["callbacks"] = list(self._make_callbacks(settings, given))
        kwargs["callbacks"] = given  # Lightning would add the others to the list of the settings.
        plugins = listed(self.config_init.trainer.plugins)
        if any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            raise ValueError(
                "--trainer.plugins: got a CheckpointIO, but this project's DurableCheckpointIO writes the checkpoints"
            )
        kwargs["plugins"] = [*plugins, DurableCheckpointIO(asynchronous=checkpoint.asynchronous)]
        trainer = super().instantiate_trainer(**kwargs, **devices_for(settings))
        reduce_step_overhead()
        return trainer

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks of `--trainer.callbacks`."""
        return listed(self.config_init.trainer.callbacks)

    def _mlflow_logger(self) -> MLflowLogger | None:
        if self.config.trainer.logger is False:
            return None
        experiment = experiments.experiment_name(self.config.groups.experiment, self.data.name)
        return MLflowLogger(experiment, self._run_name(experiment), asynchronous=self.config.tracking.asynchronous)

    def _loggers_of_the_user(self) -> list[Logger]:
        """Return the loggers of `--trainer.logger`, which are added to the MLflow logger."""
        return [one for one in listed(self.config_init.trainer.logger) if isinstance(one, Logger)]

    def _check_loggers(self) -> None:
        for one in listed(self.config.trainer.logger):
            name = str(getattr(one, "class_path", "")).rpartition(".")[2]
            if name.lower() == MLflowLogger.__name__.lower():
                raise ValueError(
                    f"--trainer.logger: got {name}, but each run is in MLflow already; leave it out, and name another "
                    "store by MLFLOW_TRACKING_URI"
                )

    def settings_without_secrets(self) -> str:
        """Return the settings as YAML that `--config` accepts."""
        text: str = self.parser.dump(without_secrets(self.config), skip_unset=False, skip_validation=True)
        # This begins a text that may also be a function: `pruning_fn` of ModelPruning.
        # https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py (serialize_as_import_path)
        return text.replace("Unable to serialize instance ", "")

    def changed_settings(self) -> dict[str, Any]:
        """Return the settings that differ from those of the chosen groups and classes, by name."""
        return changed(flatten(self.config), self.default_settings)

    @property
    def net_name(self) -> str:
        """The name of the chosen model, or of the class of the net that replaces its net."""
        return names.short(self.changed_settings().get("model.net", self.config.groups.model))

    @property
    def strategy_name(self) -> str:
        """The name of the chosen strategy, or of the strategy of Lightning that replaces it."""
        return names.short(self.changed_settings().get("trainer.strategy", self.config.groups.strategy))

    def _run_name(self, experiment: str) -> str:
        strategy, ignored = self.config.groups.strategy, ("data", "model.net")
        # The first words or the experiment name the data.
        settings = {
            key: value
            for key, value in self.changed_settings().items()
            if key not in ignored and not key.endswith(".root") and not key.startswith("trainer.logger")
        }
        words = [self.net_name]
        words += [strategy] if strategy != config_groups.DEFAULTS["strategy"] else []
        words += [self.data.name] if self.data.name != experiment else []
        return names.run_name(" ".join(words), settings)


def _made(option: str, kind: type[Any], /, *args: Any, **kwargs: Any) -> Any:
    """Make an instance of a class. An error of a user's class gets the class and its line."""
    with nullcontext() if kind.__module__.startswith("project.") else attributed(option, f"making {kind.__name__}"):
        return kind(*args, **kwargs)
