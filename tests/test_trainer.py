"""Every option and every callback of Lightning's Trainer: each does what docs/trainer.md describes."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Fit, count_runs
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from tiny import TINY, Tiny
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from project.engine.cli.command_line import CommandLine
from project.engine.cli.trainer_checks import check_callbacks, check_settings
from project.engine.training.callbacks import build_fit
from project.fit import main

BATCHES, EPOCHS = 4, 2


FAST = [*TINY, f"--max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]


class Seen(Callback):
    """A record of one fit: its batches, its steps and its metrics."""

    def __init__(self) -> None:
        self.train: dict[int, list[list[int]]] = defaultdict(list)  # by epoch: the sums of the images of each batch
        self.validated: list[int] = []  # steps
        self.batches = {"sanity": 0, "validate": 0, "test": 0}
        self.gradients: list[Tensor] = []
        self.text = ""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.trainer, self.model = trainer, pl_module
        self.train[trainer.current_epoch].append(batch[0].flatten(1).sum(1).tolist())
        self.anomaly, self.deterministic = torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()
        self.benchmark = torch.backends.cudnn.benchmark
        self.sampler = type(getattr(trainer.train_dataloader, "sampler", None)).__name__

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.gradients += [torch.cat(gradients)] if gradients else []

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches["sanity" if trainer.sanity_checking else "validate"] += 1
        self.inference = torch.is_inference_mode_enabled()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_test_batch_end(self, *_: Any) -> None:
        self.batches["test"] += 1

    @property
    def steps(self) -> int:
        return self.trainer.global_step

    def has(self, kind: type[Callback]) -> int:
        """Count the trainer's callbacks of this class."""
        return sum(isinstance(callback, kind) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

    def history(self, metric: str) -> list[float]:
        """List the values of a metric in MLflow."""
        run = self.fit.run.info.run_id
        return [value.value for value in self.fit.client.get_metric_history(run, metric)]

    @property
    def saved_averages(self) -> bool:
        """Whether the best checkpoint contains averaged weights in addition to the trained ones."""
        (path,) = self.fit.folder.glob("mlruns/checkpoints/*/best-*.ckpt")
        state = torch.load(path, weights_only=True)
        return not torch.equal(state["state_dict"]["net.head.weight"], state["current_model_state"]["net.head.weight"])


class WithPlainLoader(Tiny):
    """Trains from a loader of torch, whose sampler Lightning replaces for the ranks of ddp."""

    def train_dataloader(self) -> DataLoader[Any]:  # type: ignore[override]
        return DataLoader(TensorDataset(*self.fetch("train", torch.arange(16))), self.batch_size)


@dataclass
class Works:
    """Options, and a number that would differ if they had no effect; a fit without tracking is faster.

    Options of the same group, whose numbers do not depend on each other, share one fit.
    """

    options: Sequence[str]
    number: Callable[[Seen], object]
    expected: object
    tracked: bool = False
    group: str = ""


@dataclass
class Checked:
    """A callback or a value of an option, which a check refuses before data and model are made, and its message."""

    given: object
    message: str


@dataclass
class Refused:
    """Options, and a part of the error message."""

    options: Sequence[str]
    message: str


def with_callback(name: str, **arguments: object) -> list[str]:
    return [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{key}={value}" for key, value in arguments.items())]


def count_images(batch: tuple[Tensor, Tensor]) -> int:
    return len(batch[0])


CALLS: list[int] = []


def called(trainer: Trainer, pl_module: LightningModule) -> None:
    CALLS.append(trainer.global_step)


# Every loss is below 100, so training stops at the end of the first epoch.
STOP = with_callback("EarlyStopping", monitor="val/loss", stopping_threshold=100)

OPTIONS: dict[str, Works | Checked | Refused] = {
    "accelerator": Works(["--trainer.accelerator=cpu"], lambda s: s.model.device.type, "cpu", group="untracked"),
    "strategy": Works(
        ["--strategy=ddp", "--devices=1"], lambda s: type(s.trainer.strategy).__name__, "DDPStrategy", group="ddp"
    ),
    "devices": Works(["--devices=1"], lambda s: s.trainer.world_size, 1, group="untracked"),
    "num_nodes": Refused(["--trainer.num_nodes=2"], "add --strategy ddp"),
    "precision": Works(
        ["--precision=64-true"], lambda s: s.model.net.head.weight.dtype, torch.float64, group="untracked"
    ),
    "logger": Works(["--trainer.logger=false"], lambda s: len(s.fit.runs), 0, group="untracked"),
    "callbacks": Works(with_callback("test_trainer.Seen"), lambda s: s.has(Seen), 2, group="untracked"),
    "fast_dev_run": Works(["--trainer.fast_dev_run=3"], lambda s: (s.steps, len(s.fit.runs)), (3, 0), tracked=True),
    "max_epochs": Works(["--max_epochs=3"], lambda s: len(s.train), 3, group="clipped"),
    "min_epochs": Works(
        [*STOP, "--max_epochs=4", "--trainer.min_epochs=3"], lambda s: len(s.train), 3, group="stopped"
    ),
    "max_steps": Works(["--trainer.max_steps=3"], lambda s: s.steps, 3),
    "min_steps": Works([*STOP, "--max_epochs=4", "--trainer.min_steps=6"], lambda s: s.steps, 6),
    "max_time": Works(
        ["--max_epochs=2000", '--trainer.max_time={"milliseconds": 20}'], lambda s: 0 < s.steps < 2000 * BATCHES, True
    ),
    "limit_train_batches": Works(["--trainer.limit_train_batches=2"], lambda s: s.steps, 2 * EPOCHS, group="ddp"),
    "limit_val_batches": Works(
        ["--trainer.limit_val_batches=1"], lambda s: s.batches["validate"], EPOCHS, group="untracked"
    ),
    "limit_test_batches": Works(["--trainer.limit_test_batches=1"], lambda s: s.batches["test"], 1, group="untracked"),
    "limit_predict_batches": Checked(1, "does not predict"),
    "overfit_batches": Works(
        ["--trainer.overfit_batches=2"],
        lambda s: (s.train[0] == s.train[1], len(s.train[0])),
        (True, 2),
        group="overfit",
    ),
    "val_check_interval": Works(
        ["--trainer.val_check_interval=2"], lambda s: s.validated, [2, 4, 6, 8, 10, 12], group="clipped"
    ),
    "check_val_every_n_epoch": Works(
        ["--trainer.check_val_every_n_epoch=2"], lambda s: s.validated, [2 * EPOCHS], group="overfit"
    ),
    "num_sanity_val_steps": Works(
        ["--trainer.num_sanity_val_steps=1"], lambda s: s.batches["sanity"], 1, group="untracked"
    ),
    "log_every_n_steps": Works(
        ["--trainer.log_every_n_steps=2"], lambda s: len(s.history("train/loss")), 4, tracked=True, group="tracked"
    ),
    "enable_checkpointing": Checked(False, "the test needs the best checkpoint"),
    "enable_progress_bar": Works(
        ["--trainer.enable_progress_bar=true"], lambda s: s.has(LightningProgressBar), 1, group="untracked"
    ),
    "enable_model_summary": Works(
        ["--trainer.enable_model_summary=true"],
        lambda s: re.findall(r"Trainable params: (\d+)", s.text),
        ["130"],
        group="untracked",
    ),
    "accumulate_grad_batches": Works(
        ["--trainer.accumulate_grad_batches=2"], lambda s: s.steps, 2 * EPOCHS, group="untracked"
    ),
    "gradient_clip_val": Works(
        ["--trainer.gradient_clip_val=0.001"],
        lambda s: max(float(g.norm()) for g in s.gradients) < 0.00101,
        True,
        group="untracked",
    ),
    "gradient_clip_algorithm": Works(
        ["--trainer.gradient_clip_val=0.001", "--trainer.gradient_clip_algorithm=value"],
        lambda s: max(float(g.abs().max()) for g in s.gradients) < 0.00101 < max(float(g.norm()) for g in s.gradients),
        True,
        group="clipped",
    ),
    "deterministic": Works(["--trainer.deterministic=true"], lambda s: s.deterministic, True, group="untracked"),
    "benchmark": Works(["--trainer.benchmark=true"], lambda s: s.benchmark, True, group="untracked"),
    "inference_mode": Works(["--trainer.inference_mode=false"], lambda s: s.inference, False, group="untracked"),
    "use_distributed_sampler": Works(
        [
            "--data.class_path=test_trainer.WithPlainLoader",
            "--strategy=ddp",
            "--devices=1",
            "--trainer.use_distributed_sampler=false",
        ],
        lambda s: s.sampler,
        "SequentialSampler",
        group="ddp",
    ),
    "profiler": Works(
        ["--trainer.profiler=simple"],
        lambda s: re.findall(r"(\w+) Profiler Report", s.text),
        ["FIT", "TEST"],
        tracked=True,
        group="tracked",
    ),
    "detect_anomaly": Works(["--trainer.detect_anomaly=true"], lambda s: s.anomaly, True, group="untracked"),
    "barebones": Checked(True, "without checkpoints and metrics"),
    "plugins": Works(
        ["--trainer.precision=null", "--trainer.plugins=DoublePrecision"],
        lambda s: s.model.net.head.weight.dtype,
        torch.float64,
        group="double",
    ),
    "sync_batchnorm": Refused(["--trainer.sync_batchnorm=true"], "several GPUs"),
    "reload_dataloaders_every_n_epochs": Refused(
        ["--trainer.reload_dataloaders_every_n_epochs=1"], "every epoch has a new order"
    ),
    "default_root_dir": Checked("elsewhere", "mlruns/"),
    "enable_autolog_hparams": Checked(False, "a run's parameters are its settings"),
    "model_registry": Checked("mine", "MLflow is the registry"),
}

CALLBACKS: dict[str, Works | Checked | Refused] = {
    "BackboneFinetuning": Refused(with_callback("BackboneFinetuning"), "has no attribute 'backbone'"),
    "BaseFinetuning": Checked(callbacks.BaseFinetuning(), "a base class"),
    "BasePredictionWriter": Checked(callbacks.BasePredictionWriter(), "does not predict"),
    "BatchSizeFinder": Refused(with_callback("BatchSizeFinder"), "give --data.batch_size"),
    "Callback": Checked(Callback(), "a base class"),
    "Checkpoint": Checked(callbacks.Checkpoint(), "a base class"),
    "DeviceStatsMonitor": Works(
        with_callback("DeviceStatsMonitor"),
        lambda s: sum("cpu_percent" in name for name in s.fit.run.data.metrics) > 0,
        True,
        tracked=True,
        group="tracked",
    ),
    "EarlyStopping": Works([], lambda s: len(s.train) < 4, True, group="stopped"),  # with the options of min_epochs
    "EMAWeightAveraging": Works(
        with_callback("EMAWeightAveraging", decay=0.5), lambda s: s.saved_averages, True, group="double"
    ),
    "GradientAccumulationScheduler": Works(
        with_callback("GradientAccumulationScheduler", scheduling='{"1": 4}'),
        lambda s: s.steps,
        BATCHES + 1,
        group="accumulated",
    ),
    "LambdaCallback": Works(
        with_callback("LambdaCallback", on_train_epoch_end="test_trainer.called"),
        lambda _: CALLS[-2:],
        [4, 8],
        group="double",
    ),
    "LearningRateFinder": Checked(callbacks.LearningRateFinder(), "project.sweep"),
    "LearningRateMonitor": Works(
        with_callback("LearningRateMonitor", logging_interval="epoch"),
        lambda s: len(s.history("lr")),
        EPOCHS,
        tracked=True,
        group="tracked",
    ),
    "ModelCheckpoint": Works(
        with_callback("ModelCheckpoint", every_n_train_steps=2, save_top_k=-1),
        lambda s: sorted(path.name for path in s.fit.folder.glob("mlruns/checkpoints/*/epoch*")),
        ["epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt", "epoch=1-step=6.ckpt", "epoch=1-step=8.ckpt"],
        tracked=True,
        group="tracked",
    ),
    "ModelPruning": Works(
        with_callback("ModelPruning", pruning_fn="l1_unstructured", amount=0.5),
        lambda s: int((s.model.net.head.weight == 0).sum()),
        64,  # half of 128 weights at the end of the first epoch; the best checkpoint is of the second validation
    ),
    "ModelSummary": Works(
        with_callback("ModelSummary"),
        lambda s: re.findall(r"(\d+) +Trainable params", s.text),
        ["130"],
        group="double",
    ),
    "OnExceptionCheckpoint": Checked(callbacks.OnExceptionCheckpoint("."), "last.ckpt"),
    "ProgressBar": Checked(callbacks.ProgressBar(), "a base class"),
    "RichModelSummary": Works(
        with_callback("RichModelSummary"),
        lambda s: re.findall(r"Trainable params: (\d+)", s.text),
        ["130"],
        group="clipped",
    ),
    "RichProgressBar": Works(
        [*with_callback("lightning.pytorch.callbacks.RichProgressBar"), "--trainer.enable_progress_bar=true"],
        lambda s: (s.has(LightningProgressBar), s.has(callbacks.RichProgressBar)),
        (1, 1),
        group="clipped",
    ),
    "SpikeDetection": Checked(callbacks.SpikeDetection(), "cannot be loaded"),
    "StochasticWeightAveraging": Works(
        with_callback("StochasticWeightAveraging", swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1),
        lambda s: (type(s.trainer.lr_scheduler_configs[0].scheduler).__name__, len(s.validated)),
        ("SWALR", EPOCHS + 1),
    ),
    "ThroughputMonitor": Works(
        with_callback("ThroughputMonitor", batch_size_fn="test_trainer.count_images", window_size=2),
        lambda s: s.history("train/samples")[-1],
        BATCHES * 4.0 * EPOCHS,
        tracked=True,
        group="tracked",
    ),
    "Timer": Works(
        [*with_callback("Timer", duration='{"milliseconds": 20}', interval="step"), "--max_epochs=2000"],
        lambda s: 0 < s.steps < 2000 * BATCHES,
        True,
    ),
    "TQDMProgressBar": Works(
        [*with_callback("TQDMProgressBar"), "--trainer.enable_progress_bar=true"],
        lambda s: (s.has(LightningProgressBar), s.has(callbacks.TQDMProgressBar)),
        (1, 1),
        group="double",
    ),
    "WeightAveraging": Works(with_callback("WeightAveraging"), lambda s: s.saved_averages, True, group="clipped"),
}

MORE = {
    "profiler traces": Works(
        ["--trainer.profiler=pytorch"],
        lambda s: {p.name.split("-")[0] for p in Path("mlruns/profiles", s.fit.run.info.run_id).glob("*.json")},
        {"fit", "test"},
        tracked=True,
    ),
    "validation by time": Works(
        ['--trainer.val_check_interval={"minutes": 9}'], lambda s: s.validated, [BATCHES * EPOCHS], group="double"
    ),
    "metric of every step": Works(
        with_callback("EarlyStopping", monitor="lr", stopping_threshold=1, mode="min"),
        lambda s: s.steps,
        BATCHES,
        tracked=True,
        group="untested",
    ),
    "rate with accumulation by epoch": Works(
        [],  # those of GradientAccumulationScheduler
        lambda s: round(s.trainer.optimizers[0].param_groups[0]["lr"], 9),
        0,  # at the end of the schedule, which has as many steps as the training
        group="accumulated",
    ),
    "no test": Works(
        ["--trainer.limit_test_batches=0"],
        lambda s: (s.batches["test"], s.fit.run.info.status),
        (0, "FINISHED"),
        tracked=True,
        group="untested",
    ),
}

SLOW = {"profiler traces"}
SHARED: dict[str, Seen] = {}  # by group
EXAMPLES = [(name, example) for table in (OPTIONS, CALLBACKS, MORE) for name, example in table.items()]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """The printed text, and the messages of Lightning's loggers."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lightning.pytorch").addHandler(handler)
    yield lambda: capsys.readouterr().out + "\n".join(records)
    logging.getLogger("lightning.pytorch").removeHandler(handler)


@pytest.fixture
def unchanged_torch() -> Iterator[None]:
    """Undo what `deterministic`, `benchmark` and ddp leave in the process and in its environment."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    environment = dict(os.environ)
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]  # Commands of later tests would inherit variables such as MASTER_PORT.
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, id=name, marks=pytest.mark.faults if name in SLOW else ())
        for name, example in EXAMPLES
        if isinstance(example, Works)
    ],
)
def test_an_option_that_works_has_its_effect(
    example: Works, workplace: Path, printed: Callable[[], str], unchanged_torch: None
) -> None:
    assert example.number(trained(example, workplace, printed)) == example.expected


def trained(example: Works, workplace: Path, printed: Callable[[], str]) -> Seen:
    """Return the record of a fit with the options of an example, or of all examples of its group."""
    if example.group in SHARED:
        return SHARED[example.group]
    works = [one for _, one in EXAMPLES if isinstance(one, Works)]
    options = [option for one in works if one is example or example.group == one.group != "" for option in one.options]
    seen = Seen()
    main([*FAST, *([] if example.tracked else ["--trainer.logger=false"]), *options], [seen])
    seen.fit, seen.text = Fit(workplace, 0, ""), printed()
    if example.group:
        SHARED[example.group] = seen
    return seen


@pytest.mark.parametrize(
    "example",
    [pytest.param(example, id=name) for name, example in EXAMPLES if isinstance(example, Refused)],
)
def test_a_refused_option_leaves_no_run(example: Refused, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*FAST, *example.options])
    (error,) = capsys.readouterr().err.splitlines()
    assert example.message in error
    assert count_runs(workplace) == 0


def test_what_a_check_refuses_is_explained(workplace: Path) -> None:
    settings = build_fit(CommandLine.parse([])).config.trainer

    def check(name: str, given: object) -> None:
        if isinstance(given, Callback):
            check_callbacks([given])
        else:
            changed = settings.clone()
            changed[name] = given
            check_settings(changed)

    for name, example in EXAMPLES:
        if isinstance(example, Checked):
            with pytest.raises(ValueError, match=re.escape(example.message)):
                check(name, example.given)


def test_the_function_of_pruning_is_stored_with_the_settings(workplace: Path) -> None:
    cli = build_fit(CommandLine.parse(with_callback("ModelPruning", pruning_fn="l1_unstructured", amount=0.5)))
    assert "pruning_fn: l1_unstructured\n" in cli.settings_without_secrets()


def documented(heading: str) -> dict[str, str]:
    """Map each name in docs/trainer.md to `works` or `refused`."""
    section = (ROOT / "docs/trainer.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (works|refused) \|", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "names", "examples"),
    [
        ("Options", list(signature(Trainer).parameters), OPTIONS),
        ("Callbacks", callbacks.__all__, CALLBACKS),
    ],
)
def test_the_table_lists_every_option_and_callback_of_lightning(
    heading: str, names: Sequence[str], examples: dict[str, Works | Checked | Refused]
) -> None:
    rows = documented(heading)
    assert set(rows) == set(names)
    assert {name: "works" if isinstance(one, Works) else "refused" for name, one in examples.items()} == rows
