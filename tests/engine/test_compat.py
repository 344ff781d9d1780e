"""Contract tests of the parts of other libraries that project/engine/compat.py uses."""

import gc
import sqlite3
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

import mlflow
import optuna
import pytest
import torch
from conftest import clean_environment
from jsonargparse import ArgumentParser, Namespace, _typehints
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.core import module
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.utilities import signature_utils
from mlflow import MlflowClient
from mlflow.utils.autologging_utils import autologging_integration, safe_patch
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from project.engine import compat
from project.engine.compat import (
    MLFLOW_LOCATIONS,
    cached_storage,
    latest_metrics,
    restore_state,
    save_note,
    set_system_attr,
    suggest,
    system_attrs,
    take_over,
)


def test_jsonargparse_leaves_the_class_of_an_optional_dataclass_out() -> None:
    crop = Namespace(
        {"class_path": "Crop", "init_args": Namespace(size=3), _typehints.subclasses_disabled_meta_key: True}
    )
    assert compat.plain_dataclasses(Namespace(crop=crop)) == Namespace(crop=Namespace(size=3))


def test_mlflow_stores_absolute_paths_in_these_columns_only(empty_store: Path) -> None:
    with closing(sqlite3.connect(empty_store)) as connection:
        columns = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()
    assert set(MLFLOW_LOCATIONS) <= set(columns)
    places = {(table, column) for table, column in columns if column.endswith(("_uri", "_location"))}
    assert places - {("workspaces", "trace_archival_location")} <= set(MLFLOW_LOCATIONS)


def test_a_folder_takes_the_place_of_a_chosen_store_and_stops_autologging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Training:
        def fit(self) -> None:
            logged.append("by hand")

    @autologging_integration("training")
    def autolog(disable: bool = False, silent: bool = False) -> None:
        safe_patch("training", Training, "fit", lambda *_: logged.append("automatically"))

    logged: list[str] = []
    autolog()
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", "7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///chosen.db")
    with compat.mlflow_in(str(tmp_path)):
        Training().fit()
        with mlflow.start_run() as run:
            assert run.info.artifact_uri.startswith(str(tmp_path))
    Training().fit()
    assert logged == ["by hand", "automatically", "by hand"]
    assert (mlflow.tracking.fluent._active_experiment_id, mlflow.get_tracking_uri()) == ("7", "sqlite:///chosen.db")


def test_connections_of_mlflow_are_closed_and_opened_again(workplace: Path) -> None:
    def opened() -> int:
        return sum(path.resolve().name == "mlflow.db" for path in Path("/proc/self/fd").iterdir())

    MlflowClient().search_experiments()
    assert opened() > 0
    compat.close_store_connections()
    assert opened() == 0
    assert MlflowClient().search_experiments()


def test_a_restored_state_of_a_metric_counts_as_an_update() -> None:
    metric = MeanMetric()
    restore_state(metric, {"mean_value": torch.tensor(6.0), "weight": torch.tensor(2.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metric.compute() == 3


def test_a_cached_storage_reads_a_finished_trial_once_and_sees_new_ones(tmp_path: Path) -> None:
    database = RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    cached = cached_storage(database)
    study = cached.create_new_study([StudyDirection.MAXIMIZE], "s")
    cached.set_trial_state_values(cached.create_new_trial(study), TrialState.COMPLETE, [1.0])
    (first,) = cached.get_all_trials(study, deepcopy=False)
    database.create_new_trial(study)
    again, new = cached.get_all_trials(study, deepcopy=False)
    assert again is first
    assert new.state == TrialState.RUNNING


def test_a_trial_of_another_process_is_taken_over_with_its_values() -> None:
    study = optuna.create_study()
    left = study.ask({"x": FloatDistribution(0, 1)})
    taken = take_over(study, study.get_trials()[0])
    suggest(taken, "x", FloatDistribution(0, 1))
    suggest(taken, "y", FloatDistribution(2, 3))
    assert taken.number == left.number
    assert taken.params["x"] == left.params["x"]
    assert 2 <= taken.params["y"] <= 3


def test_an_attribute_of_the_system_is_no_user_attribute(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/optuna.db")
    trial = study.ask()
    set_system_attr(trial, "owner", {"process.pid": "1"})
    assert system_attrs(trial) == study.trials[0].system_attrs == {"owner": {"process.pid": "1"}}
    assert study.trials[0].user_attrs == {}


def test_optuna_dashboard_reads_the_notes_and_a_note_is_written_once() -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    study = optuna.create_study()
    trial = study.ask()
    for owner, text in ((None, "*study* " * 600), (trial, "trial")):  # The first note is longer than one part.
        save_note(study, text, owner)
        assert dashboard.get_note(owner or study) == text
        save_note(study, "another", owner)
        assert dashboard.get_note(owner or study) == text
    dashboard.save_note(trial, "of a person")
    save_note(study, "of the sweep", trial)
    assert dashboard.get_note(trial) == "of a person"


def test_the_latest_metrics_have_steps_and_timestamps(workplace: Path) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    for step, value in ((3, 1.0), (4, 2.0)):
        client.log_metric(run_id, "m", value, timestamp=1000 + step, step=step)
    (metric,) = latest_metrics(client.get_run(run_id))
    assert (metric.key, metric.value, metric.timestamp, metric.step) == ("m", 2.0, 1004, 4)


def test_a_whole_number_is_an_integer_whichever_type_was_named_first() -> None:
    parser = ArgumentParser()
    # If an earlier import has this annotation, Lightning's `Optional[Union[int, float]]` is this cached type.
    parser.add_argument("--limit", type=Optional[Union[float, int, str]])  # noqa: UP007, UP045
    assert isinstance(parser.parse_args(["--limit=1"]).limit, float)
    compat.integers_first(parser)
    limits = [parser.parse_args([f"--limit={limit}"]).limit for limit in ("1", "0.5")]
    assert [(type(limit), limit) for limit in limits] == [(int, 1), (float, 0.5)]


def test_exit_handlers_run_after_the_threads() -> None:
    program = (
        "import atexit, os, threading, time; from project.engine.compat import run_exit_handlers;"
        "atexit.register(lambda: os.write(1, b'handler'));"
        "threading.Thread(target=lambda: (time.sleep(0.1), os.write(1, b'thread '))).start();"
        "run_exit_handlers(); os._exit(0)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], env=clean_environment()) == b"thread handler"


class Sums(LightningModule):
    """A module with four batches per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.layer(batch).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(4, 1))  # type: ignore[arg-type]

    val_dataloader = train_dataloader


class Validated(Callback):
    """A record of the steps after which a fit validates, and of those that `is_last_step` reports as the last."""

    def __init__(self, patched: bool) -> None:
        self.patched = patched
        self.steps: list[int] = []
        self.last: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.patched:
            compat.validate_last_step(trainer, resumed_in_validation=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)
        self.last += [trainer.global_step] if compat.is_last_step(trainer) else []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.patched and self.steps[-1:] != [trainer.global_step]:
            compat.validate(trainer)


@pytest.mark.parametrize(
    ("options", "alone", "patched"),
    [
        ({"max_steps": 6}, [4], [4, 6]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 3}, [], [8]),
        ({"max_epochs": 1, "val_check_interval": 3}, [3], [3, 4]),
        ({"max_epochs": 2}, [4, 8], [4, 8]),
    ],
)
def test_lightning_does_not_validate_after_the_last_step_by_default(
    options: dict[str, int], alone: list[int], patched: list[int], tmp_path: Path
) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    for is_patched, expected in ((False, alone), (True, patched)):
        validated = Validated(is_patched)
        trainer = Trainer(**quiet, **options, callbacks=[validated], accelerator="cpu", enable_model_summary=False)
        trainer.fit(Sums())
        assert validated.steps == expected
    assert validated.last == patched[-1:]


class Positions(Callback):
    """A record of batches: those in progress, those after which a step is done, and those before a validation."""

    def __init__(self) -> None:
        self.within: list[int] = []
        self.done: list[int] = []
        self.validated: list[int] = []
        self.validations: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.within += [compat.batches_done(trainer)] if compat.is_within_batch(trainer) else []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert compat.batches_done(trainer) == batch_idx + 1 and not compat.is_within_batch(trainer)
        self.done += [batch_idx] if compat.is_step_done(trainer) else []
        self.validated += [batch_idx] if compat.is_validated_next(trainer) else []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations.append(trainer.fit_loop.batch_idx)


@pytest.mark.parametrize(
    ("options", "done", "validated"),
    [
        ({"val_check_interval": 0.5}, [0, 1, 2, 3], [1, 3]),
        ({"accumulate_grad_batches": 3}, [2, 3], [3]),
        ({"max_steps": 3}, [0, 1, 2], [2]),
        ({"val_check_interval": "01:00:00:00"}, [0, 1, 2, 3], [3]),
        ({"limit_val_batches": 0}, [0, 1, 2, 3], []),
    ],
)
def test_batches_of_which_nothing_is_left_to_do_are_known(
    options: dict[str, Any], done: list[int], validated: list[int], tmp_path: Path
) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    positions, last = Positions(), Validated(patched=True)
    trainer = Trainer(
        **quiet, **{"max_epochs": 1, **options}, callbacks=[last, positions], accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Sums())
    assert positions.within == list(range(len(positions.within))) == list(range(done[-1] + 1))
    assert positions.done == done
    assert positions.validated == positions.validations == validated


class Handlers(Callback):
    """A record of the signal handlers that a fit sets, and of the metrics that it logs."""

    def __init__(self) -> None:
        self.calls = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        compat.set_signal_handlers(trainer, self.listen)
        compat.without_signal_broadcast(trainer)

    def listen(self) -> None:
        self.calls += 1

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == 1:
            compat.log_step(trainer)
            raise KeyboardInterrupt


class Logged(Sums):
    """A module that logs its loss in each step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def test_the_project_handles_signals_and_the_last_step_is_logged(tmp_path: Path) -> None:
    handlers = Handlers()
    trainer = Trainer(
        max_steps=3, logger=CSVLogger(tmp_path), callbacks=[handlers], log_every_n_steps=1, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(SystemExit):
        trainer.fit(Logged())
    assert handlers.calls == 1
    assert "_broadcast_sigterm_tensor" in vars(type(trainer.fit_loop.epoch_loop))
    assert "loss" in (Path(trainer.logger.log_dir) / "metrics.csv").read_text()  # type: ignore[union-attr,arg-type]


class Means(Sums):
    """A module that logs the mean of an epoch."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("mean", float(batch_idx), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class AtValidation(Callback):
    """A record of the means of the epoch and of Lightning's metrics when the last validation of an epoch ends."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.means, self.of_lightning = compat.metrics_of_epoch(trainer), set(trainer.callback_metrics)


def test_the_means_of_an_epoch_are_known_before_lightning_publishes_them() -> None:
    at_validation = AtValidation()
    trainer = Trainer(
        max_epochs=1, logger=False, callbacks=[at_validation], accelerator="cpu", num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Means())
    assert "mean" not in at_validation.of_lightning
    assert float(at_validation.means["mean"]) == float(trainer.callback_metrics["mean"]) == 1.5


def test_a_preloaded_forkserver_exits_with_its_block_and_an_earlier_one_keeps_running() -> None:
    code = """
import multiprocessing, psutil
from multiprocessing import forkserver
from project.engine.compat import preloaded_forkserver
server = vars(forkserver)["_forkserver"]
with preloaded_forkserver("fractions"):
    context = multiprocessing.get_context("forkserver")
    before = server._forkserver_pid
    with preloaded_forkserver("fractions"):
        pass
    assert server._forkserver_pid == before and psutil.pid_exists(before)
    process = context.Process(target=print, args=["ran"])
    process.start()
    process.join()
    assert process.exitcode == 0
assert not psutil.pid_exists(before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 0)


def test_options_of_a_parser_are_listed_with_their_help() -> None:
    parser = ArgumentParser()
    parser.add_argument("--size", type=int, help="Side in pixels.")
    parser.add_class_arguments(MeanMetric, "metric")
    options = compat.option_texts(parser)
    assert options["size"] == "Side in pixels."
    assert "metric.nan_strategy" in options


def test_a_logged_value_is_copied_only_to_another_device() -> None:
    compat.keep_logged_values_in_place()
    results = _ResultCollection(training=True)
    results.log("training_step", "loss", torch.tensor(1.0))
    (stored,) = results.values()
    settings = stored.meta
    results.log("training_step", "loss", torch.tensor(3.0))
    assert stored.meta is settings  # Lightning copies the settings.
    assert stored.compute() == 2
    assert stored.to(torch.device("meta")).value.device.type == "meta"


def test_learning_rates_are_not_copied_to_the_device() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.25)
    found = []
    for monitor in (LearningRateMonitor(), compat.learning_rates_on_the_cpu(LearningRateMonitor())):
        trainer: Any = SimpleNamespace(
            lr_scheduler_configs=[], optimizers=[optimizer], callback_metrics={},
            strategy=SimpleNamespace(root_device=torch.device("meta")),
        )  # fmt: skip
        assert monitor._extract_stats(trainer, "any") == {"lr-SGD": 0.25}
        found.append(trainer.callback_metrics["lr-SGD"])
    assert [one.device.type for one in found] == ["meta", "cpu"]
    assert found[1] == 0.25


def test_ddp_broadcasts_only_buffers_that_change(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        broadcast = []
        for norm, kept in ((nn.Identity(), ()), (nn.Identity(), ("mean",)), (nn.BatchNorm1d(1), ("mean",))):
            module: Any = nn.Sequential(nn.Linear(1, 1), norm)
            module.register_buffer("mean", torch.zeros(1))
            compat.keep_buffers_unsynchronized(module, kept)
            broadcast.append(nn.parallel.DistributedDataParallel(module).will_sync_module_buffers())
    finally:
        torch.distributed.destroy_process_group()
    assert broadcast == [True, False, True]


class _Logs(LightningModule):
    """A module that logs values in different ways, and records its hooks."""

    def __init__(self, calls: list[tuple[str, str | None]]) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(1)), calls

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.calls.append(("step", self._current_fx_name))
        loss = (self.weight * batch).sum()
        self.log("loss", loss)
        self.log("bar", loss.double() * 2, prog_bar=True)
        self.log("number", float(loss.detach()))
        self.log("both", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", batch.sum())

    def on_train_batch_end(self, outputs: object, batch: Tensor, batch_idx: int) -> None:
        self.calls.append(("module", self._current_fx_name))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Hooks(Callback):
    def __init__(self, calls: list[tuple[str, str | None]]) -> None:
        self.calls, self.logged = calls, list[dict[str, float]]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.calls.append(("callback", pl_module._current_fx_name))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.calls.append(("callback", pl_module._current_fx_name))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.calls.append(("callback", pl_module._current_fx_name))


def test_hooks_are_called_in_lightnings_order_and_values_are_logged_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("_call_callback_hooks", "_call_lightning_module_hook", "_call_strategy_hook")
    compat.call_hooks_directly()
    compat.inspect_hooks_once()
    recorded = []
    compat.check_log_once_per_epoch()
    for directly in (True, False):
        calls: list[tuple[str, str | None]] = []
        hooks, data = _Hooks(calls), DataLoader(torch.arange(1.0, 4.0))
        if not directly:
            for name in names:
                monkeypatch.setattr(call, name, getattr(call, name).__wrapped__)
            monkeypatch.setattr(LightningModule, "log", vars(LightningModule)["log"].__wrapped__)
        trainer = Trainer(max_epochs=2, callbacks=[hooks], logger=False, default_root_dir=tmp_path,
                          enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")  # fmt: skip
        trainer.fit(_Logs(calls), data, data)
        recorded.append((calls, hooks.logged))
    assert recorded[0] == recorded[1]
    calls, logged = recorded[0]
    assert {("step", "training_step"), ("module", "on_train_batch_end"), ("callback", "on_validation_end")} < set(calls)
    assert len({values["loss"] for values in logged}) == 6
    assert all(values["bar"] == 2 * values["loss"] == 2 * values["both_step"] for values in logged)


def test_a_hook_is_inspected_once_and_its_module_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    inspected = []

    def counting(hook: Callable[..., object], *args: object, **options: object) -> bool:
        inspected.append(hook)
        return True

    monkeypatch.setattr(signature_utils, "is_param_in_hook_signature", counting)
    monkeypatch.setattr(training_epoch_loop, "is_param_in_hook_signature", counting)
    monkeypatch.setattr(module, "is_param_in_hook_signature", counting)
    compat.inspect_hooks_once()
    one, two = Sums(), Sums()
    for each in (one, two, one):
        assert training_epoch_loop.is_param_in_hook_signature(each.training_step, "batch_idx", min_args=2)
    assert inspected == [Sums.training_step]
    kept = weakref.ref(one)
    del one, each
    gc.collect()
    assert kept() is None


def test_a_value_that_is_logged_with_other_options_in_a_later_step_is_refused(tmp_path: Path) -> None:
    class Changing(_Logs):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = (self.weight * batch).sum()
            self.log("loss", loss, prog_bar=batch_idx == 2)
            return loss

    compat.check_log_once_per_epoch()
    trainer = Trainer(max_epochs=1, logger=False, default_root_dir=tmp_path, enable_checkpointing=False,
                      enable_progress_bar=False, accelerator="cpu")  # fmt: skip
    with pytest.raises(MisconfigurationException, match="twice in `training_step` with different arguments"):
        trainer.fit(Changing([]), DataLoader(torch.arange(1.0, 4.0)))


@pytest.mark.faults
def test_torchmetrics_is_imported_in_parts_and_each_part_works() -> None:
    """In another process, because this one has imported all of it."""
    program = """if True:
        import sys
        from project.engine.compat import defer_torchmetrics
        defer_torchmetrics()
        import torch
        from lightning.pytorch.trainer.connectors.logger_connector.result import Metric
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy
        assert {"scipy", "matplotlib", "torchvision", "torchmetrics.image"}.isdisjoint(sys.modules)
        figure, _ = MulticlassAccuracy(2).plot(torch.tensor(0.5))
        import torchmetrics
        from torchmetrics.image import StructuralSimilarityIndexMeasure
        assert isinstance(torchmetrics.F1Score("binary"), Metric) and torchmetrics.Metric is Metric
        assert torchmetrics.functional.accuracy is torchmetrics.functional.classification.accuracy
        print(type(figure).__name__, MeanMetric is torchmetrics.MeanMetric)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "Figure True\n", done.stderr
