import importlib
import re
import shutil
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path

import pytest
from commands import free_port
from conftest import count_runs, write_folder
from jsonargparse import Namespace
from tiny import TINY, Tiny
from torch import Tensor

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.cli.command_line import CommandLine
from project.engine.cli.trainer_checks import check_settings
from project.engine.loading import Augmentation, Workers
from project.engine.training.callbacks import build_fit
from project.fit import main
from project.models import CNN

BAD_OPTIONS = [
    (["--model.metrics.f1", "torchmetrics.MeanAbsoluteError"], "--model.metrics: does not fit the outputs (2, 10)"),
    (["--model.metrics.f1", "F1Score"], "model.metrics.f1: cannot be made from the number of classes"),
    (["--model.metrics.cm", "torchmetrics.classification.MulticlassConfusionMatrix"], "cm is not a single number"),
    (["--model.metrics.loss", "torchmetrics.classification.MulticlassF1Score"], "which is that of the loss"),
    (["--model.loss.weight", "[1, 2]"], "expected null; a tensor cannot be an option, see 'Add a loss'"),
    (["--model.loss", "torch.nn.MultiMarginLoss"], "--model.loss: does not fit the outputs (2, 10) of the net"),
    (["--checkpoint.monitor", "val/acc"], "did you mean val/accuracy?); it may be train/loss, val/accuracy"),
    (["--model.optimizer="], "--model.optimizer: got '', which is neither a class known here nor"),
    (["--model.optimiser", "SGD"], "did you mean --model.optimizer?"),
    (["--model", "missing.yaml"], "--model: cannot read missing.yaml: No such file"),
    (["--model.optimizer.lrr", "1"], "did you mean --model.optimizer.lr?"),
    (["--data.channels", "2"], "--data.channels: got '2'; expected one of 1, 3"),
    (["--data.augmentation.cutout", "200"], "data.augmentation.cutout: got 200; it must be 32 or less"),
    (["--data.augmentation.cutot", "3"], "did you mean --data.augmentation.cutout?"),
    (
        [*TINY, "--data.augmentation.extra+=test_bad_input.Flattening"],
        "augmentation.extra: one training step fails with",
    ),
    (["--data.augmentation.extra", "mine.Noise"], "got 'mine.Noise'; expected a list, such as [mine.Noise]"),
    (["--model.optimizer.lr", "nan"], "--model.optimizer.lr: got 'nan'; expected float"),
    (
        ["--data.augmentation.horizontal_flip", "sometimes"],
        "--data.augmentation.horizontal_flip: got 'sometimes'; expected one of true, false, 'alternate'",
    ),
    (["--model.net.padding", "foo"], "--model.net.padding: got 'foo'; expected one of int, 'same'"),
    (["--groups.data", "mnist"], "give --data NAME"),
    (["--trainer.logger", "MLFlowLogger"], "--trainer.logger: got MLFlowLogger, but each run is in MLflow already"),
    (["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "."], "tensorboard"),
    (["--precision", "transformer-engine"], "a setting needs a package that is not installed: "),
    (["--model.net", "torchvision.models.resnet.ResNet"], "error: model.net: 'int' object is not subscriptable"),
    (["surplus"], "unknown argument 'surplus'"),
    (["--data.batch_size"], "--data.batch_size: got no value; give --data.batch_size VALUE"),
    (["--model.net.dropout", "--max_epochs", "2"], "--model.net.dropout: got no value"),
    (["--data.augmentation.help"], "--data.augmentation is not a class; --data.help explains it"),
    (["--trainer.callbacks.help"], "--trainer.callbacks is not a class; --help all explains it"),
    (["-d", "mnist"], "unknown argument '-d'"),
    (["--max_epochs", "-1"], "got -1, which sets no end,"),
    (["--trainer.limit_val_batches", "0"], "chosen by val/accuracy"),
    (["--checkpoint.monitor", "val/los"], "val/loss"),
    (["--max_epochs", "1e1"], "--trainer.max_epochs: got '1e1'; expected one of int, null"),
    (["--checkpoint.every_n_epochs", "1.5"], "--checkpoint.every_n_epochs: got '1.5'; expected int"),
    (["--data.batch_size", "true"], "--data.batch_size: got 'True'; expected int"),
    (["--model.net.widths", "[8, 1e1]"], "--model.net.widths: got '10.0'; expected int"),
    (["--data.batch_size", "null"], "got null for data.batch_size; leave it out for the default ('>=' not"),
    (["--tracking", "4"], "unknown option --tracking; it has the options --tracking.asynchronous"),
    (["--data.augmentation", "null"], "got null for data.augmentation; leave it out for the default"),
    (["--model.optimizer.lr", "null"], "got null for model.optimizer.lr; leave it out for the default ("),
    (["--trainer.inference_mode", "null"], "--trainer.inference_mode: got 'None'; expected bool"),
    (["--model.optimizer.lr", "-1"], "-1"),
    (["--model.label_smoothing", "1.5"], "must be in [0, 1)"),
    (["--model.lr_schedule", "StepLR", "--model.lr_schedule.stepsize", "9"], "mean --model.lr_schedule.step_size?"),
    (["--model.lr_schedule", "StepLR", "--model.lr_schedule.step_size", "0"], "model.lr_schedule: got {'step_size': 0"),
    (["--model.lr_schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau"], "as it follows a metric"),
    (["--model.lr_schedule", "SequentialLR"], "SequentialLR cannot be used, as its arguments are schedules"),
    (["--model.lr_schedule.warmup", "1.5"], "must be in [0, 1)"),
    (["--model.lr_schedule.total_steps", "9"], "total_steps: got 9; it is always the length of the training"),
    (["--data", "nist"], "did you mean mnist?); configs/data has cifar10, digits, fashion_mnist, image_folder, mnist"),
    (["--model", "rsnet18"], "did you mean resnet18?"),
    (["--model", "CNN"], "did you mean cnn?"),
    (["--strategy", "dpp"], "configs/strategy has ddp, fsdp, single"),
    (["--experiment", "none"], "configs/experiment has"),
    (["--data"], "--data: got nothing"),
    (
        ["--model", "nets/mine.py"],
        "--model: got the file nets/mine.py; give a class in it, such as --model nets.mine.C",
    ),
    (["--config", "missing.yaml"], "cannot read missing.yaml"),
    (["--resume", "nothing"], "got run 'nothing'"),
    (["--rerun", "nothing"], "got run 'nothing'"),
    (["--rerun"], "--rerun: got nothing"),
    (["--rerun", "latest", "--resume", "latest"], "give one of them"),
    (["--data", "mnist", "--data.root", "nowhere"], "MNIST is not complete under 'nowhere'"),
    (["--data", "image_folder", "--data.root", "nowhere"], "expected ROOT/train/CLASS/*.jpg"),
    (["--data.batch_size", "5000"], "train has 1,293 images; use 1293 or less"),
    (["--data.image_size", "8"], "this model takes, for example, 16 pixels"),
    (["--devices", "2"], "add --strategy ddp"),
    (["--strategy", "ddp", "--devices", "999"], "got 999"),
    (["--trainer.accelerator", "tpu"], "got tpu"),
    (["--precision", "16-mixed"], "needs a GPU"),
    (["--strategy", "fsdp", "--precision", "16-mixed"], "needs a GPU"),
    (["--strategy", "ddp", "--model.optimizer=LBFGS", "--model.channels_last=false"], "but LBFGS needs one; use"),
    (["--model.optimizer=LBFGS"], "LBFGS, which needs contiguous weights; add --model.channels_last false"),
    (["--strategy", "fsdp", "--trainer.callbacks", "EMAWeightAveraging"], "cannot copy its shards"),
    (["--strategy", "fsdp", "--model.compile", "true"], "does not change a sharded net"),
    (["--model.compile", "fast"], "reduce-overhead"),
    (["--model.compile", "max-autotune", "--trainer.accumulate_grad_batches", "2"], "overwrite gradients"),
    (
        [
            "--model.compile=max-autotune",
            "--trainer.callbacks=GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling={0: 2}",
        ],
        "overwrite gradients",
    ),
    (["--precision", "17"], "got '17'; expected one of '64', '32', '16', 'transformer-engine', "),
]
# If no option is similar enough, the message lists the options of that class.
UNKNOWN_OPTIONS = [
    (["--trainer.epochs", "3"], "did you mean --trainer.max_epochs?"),
    (["--model.lr", "0.1"], "did you mean --model.optimizer.lr?"),
    (["--data.size", "32"], "options of data are batch_size, val_fraction"),
    (["--model.net.pretrained", "true"], "options of model.net are widths, kernel_size, padding"),
    (["--model", "resnet18", "--model.net.pretrained", "true"], "options of model.net are name, dropout"),
    (["--data.weighted", "true"], "options of data are batch_size, val_fraction"),
    (["--model.optimizer", "SGD", "--model.optimizer.momentom", "0.9"], "did you mean --model.optimizer.momentum?"),
    (["--model.optimizer", "SGD", "--model.optimizer.betas", "0.9"], "options of model.optimizer are lr, momentum"),
    (
        ["--model.optimizer.nesterov", "true", "--model.optimizer", "SGD"],
        "unknown option --model.optimizer.nesterov; give --model.optimizer SGD before its options",
    ),
    (
        ["--model.optimizer.betas", "[0.8,0.9]", "--model.optimizer", "SGD"],
        "--model.optimizer.betas: has no effect, because --model.optimizer SGD follows and lacks it",
    ),
    (["--model.lr_schedule.gamma", "0.1"], "options of model.lr_schedule are warmup"),
    (["--checkpoint.every", "3"], "options of checkpoint are asynchronous, every_n_epochs, mode, monitor"),
    (["--checkpoint.interval", "3"], "options of checkpoint are asynchronous, every_n_epochs, mode, monitor"),
    (["--trainer.grapes", "1"], "options of trainer are accelerator"),
    (["--batch_size", "3"], "did you mean --data.batch_size?"),
    (["--lr", "0.1"], "did you mean --model.optimizer.lr?"),
    (["--modle.net.dropout", "0.3"], "did you mean --model.net.dropout?"),
    (["--experimnt", "x"], "did you mean --experiment?"),
    (["--data", "image_folder", "--data.rot", "x"], "did you mean --data.root?"),
    (
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitr=x"],
        "did you mean --trainer.callbacks.monitor?",
    ),
    (
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitr=x"],
        "did you mean --trainer.callbacks.monitor?",
    ),
    (
        ["--trainer.callbacks=GradientAccumulationScheduler", "--trainer.callbacks.scheduling=3"],
        "--trainer.callbacks.scheduling: got '3'; expected dict",
    ),
    (["--colour", "red"], "see python -m project.fit --help"),
]
# Without a check, these settings of the tiny fit would fail after the first step or after training.
IMPOSSIBLE_TRAININGS = [
    (["--max_epochs", "0"], "got 0, which trains nothing"),
    (["--trainer.callbacks=Timer", "--trainer.callbacks.duration=soon"], "error: `Timer(duration='soon')` is not"),
    (["--trainer.val_check_interval", "soon"], "Expected 'DD:HH:MM:SS'"),
    (["--trainer.limit_train_batches", "0.01"], "leaves none of the 4 batches of train"),
    (["--trainer.limit_val_batches", "0.1"], "leaves none of the 2 batches of val"),
    (["--trainer.limit_test_batches", "0.01"], "leaves none of the 2 batches of test"),
    (["--trainer.overfit_batches", "0.01"], "--trainer.overfit_batches: got 0.01"),
    (["--trainer.val_check_interval", "1000"], "but an epoch has 4 batches"),
    (["--trainer.limit_train_batches", "2", "--trainer.val_check_interval", "3"], "but an epoch has 2 batches"),
    (["--trainer.min_steps", "500"], "ends training after 40 steps"),
    (["--trainer.plugins", "AsyncCheckpointIO"], "got a CheckpointIO"),
    (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=test/loss"], "monitors 'test/loss'"),
    (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/los"], "(did you mean val/loss?), which"),
]
# One function refuses these, before data and model are made, as it refuses `--max_epochs 0`.
IMPOSSIBLE_SETTINGS: list[tuple[str, object, str]] = [
    ("accumulate_grad_batches", 0, "it must be 1 or more"),
    ("check_val_every_n_epoch", 0, "it must be 1 or more"),
    ("max_steps", 0, "got 0, which trains nothing"),
    ("limit_train_batches", 0, "got 0, which trains nothing"),
    ("min_epochs", 20, "ends at --trainer.max_epochs 10"),
    ("gradient_clip_val", -1, "it must be 0 or more"),
    ("gradient_clip_val", nan, "it must be 0 or more"),
    ("strategy", "ddp_notebook", "got notebook, whose processes need copies"),
    ("strategy", "ddp_spawn_find_unused_parameters_true", "got spawn"),
    ("strategy", Namespace(class_path="DDPStrategy", init_args=Namespace(start_method="spawn")), "got spawn"),
    ("gradient_clip_algorithm", "norm", "no effect without --trainer.gradient_clip_val"),
    ("log_every_n_steps", -1, "it must be 0 or more"),
    ("val_check_interval", 0, "it must be 1 or more"),
    ("max_time", "5m", "it must be DD:HH:MM:SS, such as 00:00:05:00"),
]
# Constructors refuse these, as one refuses `--model.label_smoothing 1.5`.
IMPOSSIBLE_ARGUMENTS: list[tuple[Callable[[], object], str]] = [
    (lambda: Augmentation(cutout=-1), "data.augmentation.cutout: got -1; it must be 0 or more"),
    (lambda: Workers(num=-1), "data.workers.num: got -1; it must be 0 or more"),
    (lambda: Tiny(image_size=0), "data.image_size: got 0; it must be 1 or more"),
    (lambda: Tiny(image_size=100_000), "data.image_size: got 100000; it must be 4096 or less"),
    (lambda: Tiny(batch_size=0), "data.batch_size: got 0; it must be 1 or more"),
    (lambda: Tiny(val_fraction=1), "data.val_fraction: got 1; it must be between 0 and 1"),
    (lambda: CNN(10, 1, 32, dropout=2), "dropout in [0, 1)"),
    (lambda: RunCheckpoint(every_n_epochs=0), "--checkpoint.every_n_epochs: got 0; it must be 1 or more"),
]
BAD_OPTIONS += UNKNOWN_OPTIONS + [([*TINY, *options], message) for options, message in IMPOSSIBLE_TRAININGS]


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a fit that must exit with code 2, at most three lines of output, and no run; return its error message."""

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as exit_info:
            main(options)
        message = capsys.readouterr().err
        assert exit_info.value.code == 2, message
        assert message.startswith("error: ")
        assert len(message.splitlines()) <= 3
        assert "Traceback" not in message
        assert count_runs(workplace) == 0
        return message

    return run


@pytest.mark.parametrize(("code", "message"), [
    ("class Net(:", "importing broken fails with SyntaxError: invalid syntax (broken.py, line 1)"),
    ("Net = undefined", "importing broken fails with NameError: name 'undefined' is not defined"),
    ("import nowhere", "importing broken fails: No module named 'nowhere'"),
])  # fmt: skip
def test_an_error_in_the_module_of_a_class_is_reported(
    code: str, message: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path())
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    Path("broken.py").write_text(code)
    importlib.invalidate_caches()
    assert message in refused("--model.net", "broken.Net")


class Flattening:
    """An augmentation whose images have no channels."""

    def __call__(self, images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1), targets


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[" ".join(options) for options, _ in BAD_OPTIONS])
def test_a_bad_option_exits_with_a_short_message(options: list[str], message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*options)


@pytest.mark.parametrize(("make", "message"), IMPOSSIBLE_ARGUMENTS)
def test_impossible_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_impossible_settings_of_the_trainer_are_refused(workplace: Path) -> None:
    settings = build_fit(CommandLine.parse([])).config.trainer
    check_settings(settings)
    for option, value, message in IMPOSSIBLE_SETTINGS:
        changed = settings.clone()
        changed[option] = value
        with pytest.raises(ValueError, match=rf"^--trainer\.{option}: .*{re.escape(message)}"):
            check_settings(changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"trainer: [1", "is not valid YAML"),
        (b"- 1\n- 2\n", "contains a list"),
        (b"# nothing\n", "bad.yaml is empty; expected settings"),
        (
            b"trainer:\n  max_epochs: 3\ndata: mnist\ntrainer:\n  precision: 32-true\n",
            "key trainer is given twice at line 4",
        ),
        (b"trainer:\n  max_epochs: 3\n  max_epochs: 4\n", "key max_epochs is given twice at line 3"),
        (b"trainer:\n  [a]: 3\n", "unhashable key at line 2"),
        (b"trainer:\nmodel:\n", "bad.yaml has model: without settings; list them, or leave out the key"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"trainer:\n  max_epoch: 3\n", "bad.yaml: unknown option --trainer.max_epoch; did you mean"),
        (b"trainer: 5\n", "--trainer: got 5; expected settings, each with its name"),
        (b"tracking: [1]\n", "--tracking: got [1]; expected settings"),
        (b"groups: 5\n", "groups: 5"),
        (b"checkpoint: [1]\n", "--checkpoint: got [1]; expected settings"),
        (b"groups:\n- data\n", "has groups: ['data']"),
        (
            b"groups: {data: [mnist]}\n",
            "has groups: {'data': ['mnist']}; expected names, such as groups: {data: mnist}",
        ),
        (b"data:\n  class_path: x.Y\n  batch_size: 4\n", "bad.yaml: --data: got options beside class_path; list them"),
        (b"groups:\n  dataset: mnist\n", "names the group 'dataset'"),
        (b"config: other.yaml\n", "bad.yaml has config: other.yaml; give each file by a --config of its own"),
        (b"data: mnist\n", "bad.yaml has data: mnist; the key of a choice is groups: {data: mnist}"),
        (
            b"experiment: article\n",
            "bad.yaml has experiment: article; the key of a choice is groups: {experiment: article}",
        ),
    ],
)
def test_a_bad_file_exits_with_a_short_message(content: bytes, message: str, refused: Callable[..., str]) -> None:
    Path("bad.yaml").write_bytes(content)
    assert message in refused("--config", "bad.yaml")


def test_a_bad_file_of_a_group_is_refused_by_its_option(refused: Callable[..., str]) -> None:
    Path("configs/model").mkdir(parents=True)
    Path("configs/model/mine.yaml").write_text("model:\n")
    assert "--model: configs/model/mine.yaml has model: without settings" in refused("--model", "mine")
    Path("configs/data").mkdir()
    Path("configs/data/mine.yaml").write_text("data:\n  batch_size: 32\n")
    assert "--data: configs/data/mine.yaml names no class of data; add data: " in refused("--data", "mine")


def test_a_choice_that_a_later_file_contradicts_is_refused(refused: Callable[..., str]) -> None:
    Path("mine.yaml").write_text("groups: {model: resnet18}\n")
    message = "mine.yaml names the model resnet18, but --model cnn comes before it; give --model after --config"
    assert message in refused("--model", "cnn", "--config", "mine.yaml", "--trainer.fast_dev_run", "1")


def test_a_file_that_names_an_experiment_has_its_choices(workplace: Path) -> None:
    Path("mine.yaml").write_text("groups: {experiment: cifar10_resnet18, data: mnist}\n")
    command = CommandLine.parse(["--config", "mine.yaml"])
    assert {group: command.groups[group] for group in ("data", "model")} == {"data": "mnist", "model": "resnet18"}


def _empty(root: Path) -> None:
    (root / "train/green").mkdir()


def _unknown_class(root: Path) -> None:
    shutil.copytree(root / "test/red", root / "test/green")


def _one_class(root: Path) -> None:
    shutil.rmtree(root / "train/red")


def _no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty, "no image in data/train/green"),
        (_unknown_class, "a class 'green' that is not in train; train has blue, red"),
        (_one_class, "has one class"),
        (_no_classes, "has no class folders"),
    ],
)
def test_a_bad_image_folder_exits_with_a_short_message(
    damage: Callable[[Path], None], message: str, refused: Callable[..., str]
) -> None:
    write_folder(Path("data"))
    damage(Path("data"))
    assert message in refused("--data", "image_folder", "--data.batch_size", "4")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", "got the folder mlruns, but MLflow no longer tracks in folders; use sqlite:///mlruns/mlflow.db"),
        ("sqlite://", "which is lost when the process ends"),
        ("sqlite:////proc/nowhere/x.db", "cannot open /proc/nowhere/x.db"),
        ("sqlite:///text.txt", "file is not a database"),
        (
            "postgresql://me:secret@127.0.0.1/x",
            "postgresql://me:***@127.0.0.1/x needs a driver that is not installed (No module named 'psycopg'); install",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_is_named(
    uri: str, message: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("This text is not a database. " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert message in capsys.readouterr().err


@pytest.mark.timeout(60)  # MLflow's own client retries for minutes.
@pytest.mark.parametrize(
    "is_silent", [pytest.param(True, id="silent"), pytest.param(False, id="closed", marks=pytest.mark.faults)]
)
def test_a_store_that_does_not_respond_is_reported_in_seconds(
    is_silent: bool,
    silent_server: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server if is_silent else f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "MLFLOW_TRACKING_URI: no MLflow store responds" in capsys.readouterr().err
