"""Every use of private parts of other libraries, with its reason; `tests/engine/test_compat.py` tests them."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Union, get_args

if TYPE_CHECKING:  # a command that needs one of these functions does not need all of these libraries
    from argparse import ArgumentParser

    import optuna
    import torch
    from jsonargparse import Namespace
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import LearningRateMonitor
    from mlflow.entities import Metric as StoredMetric
    from mlflow.entities import Run
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial
    from torch import Tensor
    from torch.utils.data import DataLoader
    from torchmetrics import Metric

_LONGEST_PART_OF_A_NOTE = 2045  # characters; optuna-dashboard's limit
MLFLOW_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's SQL store that hold absolute paths of artifacts.

MLflow makes each path absolute when an experiment is created, and has no call that changes it, so that the
artifacts of a moved folder are not found. https://github.com/mlflow/mlflow/issues/3144
"""


def integers_first(parser: ArgumentParser) -> None:
    """Make `1` of `--trainer.limit_val_batches 1` the number 1, one batch, and not 1.0, all batches.

    typing caches `Optional[Union[int, float]]` by equality, which ignores the order: after another library has made
    `Optional[Union[float, int]]`, Lightning's annotations are that one, and jsonargparse tries float first.
    https://docs.python.org/3/library/typing.html#typing.Union
    """
    for action in parser._actions:
        kinds = list(get_args(getattr(action, "_typehint", None)))
        if int in kinds and float in kinds and kinds.index(float) < kinds.index(int):
            first, second = kinds.index(float), kinds.index(int)
            kinds[first], kinds[second] = int, float
            action._typehint = Union[tuple(kinds)]  # type: ignore[attr-defined]  # noqa: UP007


def option_texts(parser: ArgumentParser) -> dict[str, str]:
    """Return the help of each option of a parser by its dotted name; no public call lists the options.

    https://github.com/python/cpython/issues/59330
    """
    return {
        action.dest: action.help or ""
        for action in parser._actions
        if action.option_strings and not action.option_strings[0].endswith(".help")
    }


def option_types(parser: ArgumentParser) -> dict[str, object]:
    """Return the type of each option of a parser by its dotted name; no public call returns it.

    https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
    """
    return {action.dest: getattr(action, "_typehint", None) for action in parser._actions}


def plain_dataclasses(settings: Namespace) -> Namespace:
    """Return settings with each dataclass as its fields, without its class.

    jsonargparse does this when all is parsed. An earlier value of an optional dataclass has no class any more, and a
    later one with a class is added to it, which is not a value of the dataclass:
    https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
    """
    from jsonargparse._typehints import subclasses_disabled_remove_class_path

    plain: Namespace = subclasses_disabled_remove_class_path(settings)  # type: ignore[no-untyped-call]
    return plain


def defer_torchmetrics() -> None:
    """Make an import of torchmetrics import only the metrics that are used, in this process.

    Lightning imports torchmetrics for two classes. torchmetrics imports all of its metrics, and with them torchvision,
    scipy and matplotlib, which takes a third of the time of `import lightning`. Any other use of these modules, such as
    `torchmetrics.F1Score` or `metric.plot()`, imports them in full.
    https://github.com/Lightning-AI/torchmetrics/blob/v1.8.2/src/torchmetrics/__init__.py
    """
    sys.meta_path.insert(0, _Deferring())


class _Deferring(MetaPathFinder, Loader):
    """The finder and the loader of modules that are not executed when they are imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _DEFERRED else None
        if spec is not None:
            spec.loader_state, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DEFERRED[spec.name](spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Deferred(ModuleType):
    """A module that is not executed before it is needed."""

    def execute(self) -> None:
        """Execute the module, which is then a normal module."""
        spec = self.__spec__
        assert spec is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader = spec.loader_state
        spec.loader.exec_module(self)


class _Package(_Deferred):
    """A package that is executed when anything except its submodules and common classes is used."""

    _COMMON: ClassVar = {"Metric": "metric", "MetricCollection": "collections", "MeanMetric": "aggregation"}
    _logger = logging.getLogger("torchmetrics")  # The submodules import it.
    __version__ = version("torchmetrics")  # Lightning compares it.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Read from each module, for example by `inspect`.
            raise AttributeError(name)
        if name in self._COMMON:
            import_module("torchmetrics.utilities")  # Otherwise, `torchmetrics.metric` and it import each other.
            return getattr(import_module(f"torchmetrics.{self._COMMON[name]}"), name)
        self.execute()
        return getattr(self, name)


class _Plots(_Deferred):
    """The module of torchmetrics' figures, which is executed when one is drawn."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("_"):  # A type of matplotlib in an annotation.
            return object

        def draw(*args: Any, **options: Any) -> Any:
            if isinstance(self, _Plots):
                self.execute()
            return getattr(self, name)(*args, **options)

        return draw


_DEFERRED = {"torchmetrics": _Package, "torchmetrics.functional": _Package, "torchmetrics.utilities.plot": _Plots}


def close_store_connections() -> None:
    """Close the idle connections of this process to SQL stores, which MLflow keeps open until the process ends.

    https://github.com/mlflow/mlflow/blob/v3.0.0/mlflow/store/tracking/sqlalchemy_store.py
    """
    for kind in ("tracking", "model_registry"):
        if module := sys.modules.get(f"mlflow.store.{kind}.sqlalchemy_store"):  # not imported for an MLflow server
            for engine in module.SqlAlchemyStore._engine_map.values():
                engine.dispose()


def run_exit_handlers() -> None:
    """Wait for threads that are not daemons, then run the exit handlers, as Python does before it frees its objects.

    `os._exit` does neither, and no public call does: https://docs.python.org/3/library/os.html#os._exit
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


@contextmanager
def preloaded_forkserver(module: str) -> Iterator[None]:
    """Run the server of multiprocessing's start method `forkserver`, which imports a module, for a block of code.

    A server that runs already is not changed. multiprocessing has no public call that starts or ends its server:
    https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
    """
    from multiprocessing import forkserver

    server: Any = vars(forkserver)["_forkserver"]
    pid_before = server._forkserver_pid
    forkserver.set_forkserver_preload([module])
    forkserver.ensure_running()
    try:
        yield
    finally:
        if server._forkserver_pid not in (None, pid_before):
            os.kill(server._forkserver_pid, signal.SIGTERM)  # it may still be importing
            server._stop()


def learning_rates_on_the_cpu(monitor: LearningRateMonitor) -> LearningRateMonitor:
    """Keep the learning rates of `callback_metrics` on the CPU: a copy of each to the device makes it wait.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/callbacks/lr_monitor.py
    """
    import torch

    original, cpu = monitor._extract_stats, SimpleNamespace(root_device=torch.device("cpu"))

    def extract(trainer: Trainer, interval: str) -> dict[str, float]:
        read = {name: getattr(trainer, name) for name in ("lr_scheduler_configs", "optimizers", "callback_metrics")}
        return original(SimpleNamespace(**read, strategy=cpu), interval)  # type: ignore[arg-type]

    monitor._extract_stats = extract  # type: ignore[method-assign]
    return monitor


def set_signal_handlers(trainer: Trainer, register: Callable[[], None]) -> None:
    """Make Lightning call `register` when a fit starts, instead of registering its own signal handlers.

    Its handler of SIGTERM runs a collective, which hangs if only one rank received the signal.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/trainer/connectors/signal_connector.py
    """
    trainer._signal_connector.register_signal_handlers = register  # type: ignore[method-assign]


def keep_logged_values_in_place() -> None:
    """Let `LightningModule.log` move a stored value only if its device differs, in this process.

    Lightning moves it in each call, with a deep copy of its settings that takes most of the time of the call.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/trainer/connectors/logger_connector/result.py
    """
    from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric

    move = vars(_ResultMetric)["to"]
    if hasattr(move, "__wrapped__"):
        return

    @wraps(move)
    def to(self: _ResultMetric, device: torch.device) -> _ResultMetric:
        value = getattr(self, "value", None)
        return self if value is not None and value.device == device else move(self, device)

    _ResultMetric.to = to  # type: ignore[method-assign]


def call_hooks_directly() -> None:
    """Make Lightning call hooks without preparing for a profiler, in this process.

    A step calls some 20 hooks. For each of them, and for each callback, Lightning formats a name for its profiler, and
    sets an attribute of the module by the slow `torch.nn.Module.__setattr__`. Hooks that a callback does not override
    are not called. With a profiler of the user, nothing changes.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/trainer/call.py
    """
    from lightning import Callback
    from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
    from lightning.pytorch.profilers import PassThroughProfiler
    from lightning.pytorch.trainer import call

    if hasattr(call._call_callback_hooks, "__wrapped__"):
        return

    def replace(name: str, run: Callable[..., Any]) -> None:
        original = getattr(call, name)

        @wraps(original)
        def run_hook(trainer: Trainer, hook_name: str, *args: Any, **kwargs: Any) -> Any:
            module = trainer.lightning_module
            profiler = trainer.profiler  # type: ignore[attr-defined]
            if module is None or "pl_module" in kwargs or not isinstance(profiler, PassThroughProfiler):
                return original(trainer, hook_name, *args, **kwargs)
            attributes = vars(module)
            before, attributes["_current_fx_name"] = attributes["_current_fx_name"], hook_name
            output = run(trainer, hook_name, *args, **kwargs)
            attributes["_current_fx_name"] = before
            return output

        setattr(call, name, run_hook)

    def of_callbacks(
        trainer: Trainer, hook_name: str, *args: Any, monitoring_callbacks: bool | None = None, **kwargs: Any
    ) -> None:
        empty = vars(Callback)[hook_name]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            hook = getattr(callback, hook_name)
            if getattr(hook, "__func__", None) is empty or not callable(hook):
                continue
            if monitoring_callbacks in (None, isinstance(callback, (EarlyStopping, Checkpoint))):
                hook(trainer, trainer.lightning_module, *args, **kwargs)

    def of(owner: str) -> Callable[..., Any]:
        def call_hook(trainer: Trainer, hook_name: str, *args: Any, **kwargs: Any) -> Any:
            hook = getattr(getattr(trainer, owner), hook_name)
            return hook(*args, **kwargs) if callable(hook) else None

        return call_hook

    replace("_call_callback_hooks", of_callbacks)
    replace("_call_lightning_module_hook", of("lightning_module"))
    replace("_call_strategy_hook", of("strategy"))


def inspect_hooks_once() -> None:
    """Make Lightning look up the parameters of a hook once, not in each step and each call of `log`, in this process.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/utilities/signature_utils.py
    """
    from lightning.pytorch.core import module
    from lightning.pytorch.loops import training_epoch_loop
    from lightning.pytorch.utilities import signature_utils

    original = signature_utils.is_param_in_hook_signature
    inspected = lru_cache(maxsize=16)(original)

    def is_param_in_hook_signature(hook_fx: Callable[..., Any], *args: Any, **options: Any) -> bool:
        return inspected(getattr(hook_fx, "__func__", hook_fx), *args, **options)  # A method would keep its module.

    for user in (module, training_epoch_loop):
        if user.is_param_in_hook_signature is original:
            user.is_param_in_hook_signature = is_param_in_hook_signature  # type: ignore[attr-defined]


def check_log_once_per_epoch() -> None:
    """Let `LightningModule.log` check its arguments in the first step of an epoch, not in each step, in this process.

    Lightning also makes new settings in each call, and compares them with those of the first call. A scalar tensor that
    is logged for its step alone, with the same options as before, is stored directly; all else is left to Lightning.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/core/module.py
    """
    from lightning import LightningModule
    from torch import Tensor

    original = LightningModule.log
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def log(self: LightningModule, name: str, value: Any, *args: Any, **options: Any) -> None:
        key, trainer = f"{self._current_fx_name}.{name}", self._trainer
        results = trainer._results if trainer is not None and trainer.training and not args else None
        if results is None:
            return original(self, name, value, *args, **options)
        is_scalar = isinstance(value, Tensor) and not value.ndim and value.is_floating_point()
        is_later = trainer._logger_connector._first_loop_iter is False  # type: ignore[union-attr]
        if is_scalar and is_later and key in results and vars(results[key]).get("options") == options:
            results.update_metrics(key, value.detach(), 1)
            return None
        original(self, name, value, **options)
        meta = results[key].meta if key in results and results[key].is_tensor else None
        if meta is not None and meta.on_step and not meta.on_epoch and not meta.enable_graph:
            vars(results[key])["options"] = options
        return None

    LightningModule.log = log  # type: ignore[method-assign]


def keep_buffers_unsynchronized(module: LightningModule, names: Sequence[str]) -> None:
    """Let DDP leave out these buffers when it broadcasts those of the first rank before each step.

    The buffers must never change, and must be the same on every rank.
    https://github.com/pytorch/pytorch/blob/v2.11.0/torch/nn/parallel/distributed.py
    """
    from torch.nn.parallel import DistributedDataParallel

    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(module, list(names))  # type: ignore[no-untyped-call]


def without_signal_broadcast(trainer: Trainer) -> None:
    """Remove the broadcast before each step of several processes, which `set_signal_handlers` makes useless.

    Lightning broadcasts a flag before each step, and reads it, which makes the processor wait for the device.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def divided_loader(trainer: Trainer, loader: DataLoader[Any]) -> object:
    """Return a loader of a process's share of the samples, as Lightning makes it when training starts.

    Lightning makes it after the processes have started, and raises MisconfigurationException or TypeError if it cannot:
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/utilities/data.py
    """
    from lightning.pytorch.trainer.states import RunningStage

    return trainer._data_connector._prepare_dataloader(loader, shuffle=False, mode=RunningStage.TRAINING)


def metrics_of_epoch(trainer: Trainer) -> dict[str, Tensor]:
    """Return the metrics of the training epoch so far, which `callback_metrics` has only after the epoch.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/trainer/connectors/logger_connector/result.py
    """
    return trainer.fit_loop.epoch_loop._results.metrics(on_step=False)["callback"]


def log_step(trainer: Trainer) -> None:
    """Log the metrics of the current training step, which Lightning does after `on_train_batch_end`."""
    trainer._logger_connector.update_train_step_metrics()


def is_last_step(trainer: Trainer) -> bool:
    """Return whether the step just done is the last one, because of `max_steps`, `max_epochs` or a stop.

    Lightning decides this in `_FitLoop.done`, which counts an epoch only after its validation, and logs.
    """
    loop = trainer.fit_loop
    steps_done = 0 <= loop.max_steps <= trainer.global_step
    epochs_after_this = vars(loop.epoch_progress.current)["processed"] + 1
    epochs_done = loop.max_epochs not in (None, -1) and loop.max_epochs <= epochs_after_this and trainer.is_last_batch
    return steps_done or epochs_done or (trainer.should_stop and loop._can_stop_early)


def batches_done(trainer: Trainer) -> int:
    """Return the number of batches of this epoch that training has processed, without one that is in progress.

    Lightning's counts are private:
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/progress.py
    """
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.current)["processed"])


def is_within_batch(trainer: Trainer) -> bool:
    """Return whether a batch is in progress; see `batches_done`."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready > batches_done(trainer)


def is_step_done(trainer: Trainer) -> bool:
    """Return whether no gradient of a finished batch waits for further batches; see `batches_done`."""
    done, is_last = batches_done(trainer), trainer.is_last_batch and not is_within_batch(trainer)
    return done % trainer.accumulate_grad_batches == 0 or is_last


def repeat_batch(trainer: Trainer) -> None:
    """Make a run repeat the batch in progress, if it resumes from a checkpoint that is saved now.

    Lightning would consider an epoch done while its last batch is in progress. It would also keep this batch in its
    total of started batches, and count one step more at this restart and at each later one:
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    progress.is_last_batch = False
    counts: tuple[Any, Any] = (progress.total, progress.current)
    for count in counts:
        count.ready = count.started = count.processed


def is_validated_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the last finished batch; a run that resumes here would skip it.

    Lightning counts a validation that is due at the start of a resumed run as done, in `_TrainingEpochLoop.advance`:
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    if not trainer.enable_validation:
        return False
    # A resumed run measures the time from its start. Ranks may differ in whether it is over, but must agree.
    by_time = trainer._val_check_time_interval is not None  # type: ignore[attr-defined]
    fetcher: Any = trainer.fit_loop._data_fetcher
    is_due = not by_time and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    return trainer.is_last_batch or is_last_step(trainer) or is_due


def validate_last_step(trainer: Trainer, *, resumed_in_validation: bool) -> None:
    """Make this fit also validate after its last step, at any position in an epoch.

    Lightning validates by `val_check_interval` and `check_val_every_n_epoch` alone, so that the weights of the last
    step may have no score: https://github.com/Lightning-AI/pytorch-lightning/issues/9855

    Args:
        trainer: At the start of training.
        resumed_in_validation: Whether the state that training resumes from was saved in a validation. If so, Lightning
            completes or skips that validation instead of the first step.
    """
    loop = trainer.fit_loop.epoch_loop
    by_interval = loop._should_check_val_fx

    def should_validate(data_fetcher: Any) -> bool:
        if loop.restarting and resumed_in_validation:
            return True
        return by_interval(data_fetcher) or (trainer.enable_validation and is_last_step(trainer))

    loop._should_check_val_fx = should_validate  # type: ignore[method-assign]


def validate(trainer: Trainer) -> None:
    """Validate after the end of training, with the number of the last training step."""
    if trainer.enable_validation:
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped -= 1
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        loop._batches_that_stepped += 1


def restore_state(metric: Metric, state: Mapping[str, Tensor | list[Tensor]]) -> None:
    """Set the state of a metric, which then counts as updated.

    torchmetrics counts calls of `update` alone, and warns that a metric was computed before its first update. Its
    `merge_state` refuses metrics that do not set `full_state_update` to false, the default of which is None.
    https://github.com/Lightning-AI/torchmetrics/blob/v1.8.2/src/torchmetrics/metric.py#L404
    """
    for name, value in state.items():
        setattr(metric, name, value)
    metric._update_count = max(1, metric.update_count)


def cached_storage(storage: RDBStorage) -> BaseStorage:
    """Put Optuna's cache of finished trials before a database, as a study does with an `RDBStorage`.

    If another storage wraps the database, the study has no cache, and reads all trials each time. Optuna calls the
    function internal: https://github.com/optuna/optuna/blob/master/optuna/storages/__init__.py
    """
    from optuna.storages import get_storage

    return get_storage(storage)


def take_over(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return a trial of another process as one that this process runs; `Study.ask` returns only new trials.

    https://github.com/optuna/optuna/blob/v4.0.0/optuna/trial/_trial.py
    """
    from optuna import Trial

    return Trial(study, trial._trial_id)


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    """Set a parameter of a trial, unless it is set already; the public calls take a range instead of a distribution."""
    trial._suggest(name, distribution)


def system_attrs(owner: optuna.Study | optuna.Trial) -> dict[str, Any]:
    """Return the attributes of a study or a trial that `set_system_attr` has set, and Optuna's own."""
    from optuna import Trial

    if isinstance(owner, Trial):
        return owner.storage.get_trial_system_attrs(owner._trial_id)
    return owner._storage.get_study_system_attrs(owner._study_id)


def set_system_attr(owner: optuna.Study | optuna.Trial, name: str, value: Any) -> None:
    """Set an attribute of a study or a trial that no dashboard shows; they show what `set_user_attr` sets.

    https://github.com/optuna/optuna/blob/v4.0.0/optuna/storages/_base.py
    """
    from optuna import Trial

    if isinstance(owner, Trial):
        owner.storage.set_trial_system_attr(owner._trial_id, name, value)
    else:
        owner._storage.set_study_system_attr(owner._study_id, name, value)


def save_note(study: optuna.Study, text: str, trial: optuna.Trial | None = None) -> None:
    """Store the note of a study or of one of its trials, which optuna-dashboard shows, unless there is one already.

    The public `optuna_dashboard.save_note` stores the same attributes, but would be a dependency for this alone.
    https://github.com/optuna/optuna-dashboard/blob/v0.17.0/optuna_dashboard/_note.py

    Args:
        study: The study.
        text: Markdown.
        trial: A trial of the study; None for the note of the study.
    """
    prefix = "dashboard:" if trial is None else f"dashboard:{trial._trial_id}:"
    if f"{prefix}note_ver" in system_attrs(study):
        return
    for part, start in enumerate(range(0, len(text), _LONGEST_PART_OF_A_NOTE)):
        set_system_attr(study, f"{prefix}note_str:{part}", text[start : start + _LONGEST_PART_OF_A_NOTE])
    set_system_attr(study, f"{prefix}note_ver", 1)


@contextmanager
def mlflow_in(folder: str) -> Iterator[None]:
    """Make a folder the store of MLflow's functions for a block of code, in which MLflow logs nothing automatically.

    A store and an experiment that a module has chosen before take precedence over the environment, and MLflow has no
    public call that restores them: https://github.com/mlflow/mlflow/blob/v3.17.0/mlflow/tracking/fluent.py
    """
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri
    from mlflow.utils.autologging_utils import disable_autologging

    variables = ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")  # MLflow sets two of them.
    before = {name: os.environ.pop(name, None) for name in variables}
    experiment, vars(fluent)["_active_experiment_id"] = fluent._active_experiment_id, "0"
    os.environ[variables[0]] = "true"
    try:
        with disable_autologging(), _use_tracking_uri(f"{folder}/mlflow"):
            yield
    finally:
        vars(fluent)["_active_experiment_id"] = experiment
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def latest_metrics(run: Run) -> list[StoredMetric]:
    """Return the last point of each metric of a run, with its step and timestamp; `run.data.metrics` has values alone.

    https://github.com/mlflow/mlflow/blob/v3.0.0/mlflow/entities/run_data.py
    """
    return list(run.data._metric_objs)
