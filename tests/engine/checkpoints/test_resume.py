import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from test_interrupt import SignalAt
from tiny import TINY, TinyNet
from torch import nn
from torch.utils.data import DataLoader

from project.engine.checkpoints.resume import CurrentSettings, _finish_epoch, check_optimizer, check_weights
from project.fit import main
from project.tasks import ImageClassifier

FEW = [*(f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")), *TINY]
STEPWISE = ["--trainer.log_every_n_steps=1"]


class TwoLayers(TinyNet):
    """Another net than that of the run."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.more = nn.Linear(2, 2)


def test_a_checkpoint_may_lack_weights_of_a_module_that_says_so(tmp_path: Path) -> None:
    net = LightningModule()
    net.trained, net.frozen = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({"state_dict": net.trained.state_dict(prefix="trained.")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"another net: frozen\.bias is missing there"):
        check_weights(tmp_path / "last.ckpt", net)
    net.strict_loading = False
    check_weights(tmp_path / "last.ckpt", net)


def test_a_callback_may_have_added_groups_to_the_optimizer(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([net.weight])
    optimizer.add_param_group({"params": [net.bias]})
    torch.save({"optimizer_states": [optimizer.state_dict()]}, tmp_path / "last.ckpt")
    check_optimizer(tmp_path / "last.ckpt", torch.optim.SGD([net.weight]))
    with pytest.raises(ValueError, match="the state of an optimizer other than SGD"):
        check_optimizer(tmp_path / "last.ckpt", torch.optim.SGD(net.parameters()))


class OwnOptimizer(ImageClassifier):
    """A task that does not use the optimizer of its settings."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


@pytest.mark.faults
def test_a_task_with_an_optimizer_of_its_own_resumes(workplace: Path) -> None:
    main(["--model.class_path=test_resume.OwnOptimizer", *FEW, "--max_epochs=1"])
    main(["--resume=latest", "--max_epochs=2"])
    (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 4


REFUSED = [
    ([], "has done 1 of --max_epochs 1; give more: --max_epochs 2"),
    (["--max_epochs", "0"], "got 0, which trains nothing"),
    (["--max_epochs", "3", "--model.net", "test_resume.TwoLayers"], "holds another net"),
    (["--max_epochs", "3", "--model.optimizer", "SGD"], "the state of an optimizer other than SGD"),
    (["--max_epochs", "3", "--model.optimizer.amsgrad", "true"], "lacks the averages that --model.optimizer.amsgrad"),
    (
        ["--max_epochs=3", "--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"],
        "StochasticWeightAveraging stores no averages",
    ),
    (["--trainer.callbacks=ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"], "stores no masks"),
    (["--max_epochs", "3", "--data", "mnist", "--data.batch_size", "8"], "got the data project.data.MNIST"),
    (["--trainer.fast_dev_run", "true"], "--resume: got --trainer.fast_dev_run too"),
]


@pytest.fixture
def run_id(workplace: Path) -> str:
    """A finished run of one epoch."""
    main(["--max_epochs", "1", *FEW, *STEPWISE])
    return str(Fit(workplace, 0, "").run.info.run_id)


def test_resume_continues_the_same_run_with_the_given_options(workplace: Path, run_id: str) -> None:
    # The epoch had two batches, so that nothing of it is left, and the next may have other ones.
    other = ["--model.optimizer.lr", "0.01", "--data.batch_size", "2", "--trainer.limit_train_batches", "4"]
    other += ["--checkpoint.monitor", "val/loss", "--trainer.strategy", "ddp"]
    main(["--resume", run_id[:12], "--max_epochs", "3", *other])
    after = Fit(workplace, 0, "")
    assert (after.run.info.run_id, after.run.info.status) == (run_id, "FINISHED")
    assert after.run.info.run_name == "TinyNet model=TinyTask batch_size=4 crop_padding=0…"
    changed = {key: value for key, value in after.run.data.tags.items() if key.startswith("resumed.")}
    assert changed == {
        "resumed.trainer.max_epochs": "3",
        "resumed.model.optimizer.lr": "0.01",
        "resumed.data.batch_size": "2",
        "resumed.trainer.limit_train_batches": "4",
        "resumed.checkpoint.monitor": "val/loss",
        "resumed.trainer.strategy": "ddp",
    }
    assert after.run.data.tags["monitor"] == "val/loss (min)"
    assert after.run.data.tags["strategy"] == "ddp"
    history = after.client.get_metric_history
    assert [metric.step for metric in history(run_id, "val/accuracy")] == [1, 5, 9]
    # Two steps are done and eight remain. Of the ten one warms up, and the half cosine of the new rate follows.
    rates = [metric.value for metric in history(run_id, "lr")]
    half_cosine = [0.005 * (1 + math.cos(math.pi * step / 9)) for step in range(1, 9)]
    assert rates[2:] == pytest.approx(half_cosine, abs=1e-5)
    assert "max_epochs: 3" in after.text("config.yaml")


class Dies(Callback):
    """Between the validation, after which the checkpoints are written, and the end of the epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("dies")


def test_a_run_that_dies_before_its_epoch_has_ended_resumes(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="dies"):
        main(["--max_epochs", "2", *FEW], [Dies()])
    run_id = str(Fit(workplace, 1, "").run.info.run_id)
    (best,) = workplace.glob("mlruns/checkpoints/*/best-*.ckpt")
    best.unlink()
    capsys.readouterr()
    main(["--resume", "latest"])
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [epoch.partition("loss")[0] for epoch in epochs] == ["epoch 2 of 2: train "]
    after = Fit(workplace, 0, "")
    assert after.run.info.status == "FINISHED"
    assert [metric.step for metric in after.client.get_metric_history(run_id, "val/accuracy")] == [1, 3]


def test_a_run_that_cannot_resume_is_refused(
    workplace: Path, datasets: None, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main(["--resume", run_id, *options])
        (said,) = capsys.readouterr().err.splitlines()
        return said

    for options, answer in REFUSED:
        assert answer in refusal(*options)
    (last,) = workplace.glob("mlruns/checkpoints/*/last.ckpt")
    state = torch.load(last, weights_only=True)
    state["callbacks"]["RunCheckpoint{'monitor': 'val/accuracy'}"] = state["callbacks"].pop("RunCheckpoint")
    last.unlink()
    torch.save(state, last)
    assert "was saved by another version of this package" in refusal("--max_epochs", "3")
    assert Fit(workplace, 2, "").run.info.status == "FINISHED"
    Fit(workplace, 2, "").client.delete_run(run_id)
    assert "is deleted" in refusal("--max_epochs", "3")


def test_the_last_checkpoint_is_the_last_even_if_the_first_was_best(workplace: Path) -> None:
    # The loss grows: the gradient is climbed.
    worse = ["--model.optimizer.maximize", "true", "--model.optimizer.lr", "0.01", "--checkpoint.monitor", "val/loss"]
    main(["--max_epochs", "3", *FEW, *worse])
    checkpoints = {
        path.name: torch.load(path, weights_only=True) for path in workplace.glob("mlruns/checkpoints/*/*.ckpt")
    }
    assert {name: state["global_step"] for name, state in checkpoints.items()} == {
        "best-epoch000.ckpt": 2,
        "previous.ckpt": 4,
        "last.ckpt": 6,
    }


@pytest.mark.faults
def test_a_run_with_accumulation_by_epoch_resumes_as_if_it_had_not_stopped(workplace: Path) -> None:
    by_epoch = ["--trainer.callbacks=GradientAccumulationScheduler", '--trainer.callbacks.scheduling={"0": 2}']
    few = ["--max_epochs=2", "--trainer.limit_train_batches=4", *FEW[1:], *STEPWISE, *by_epoch]
    main(few)
    with pytest.raises(SystemExit, match="130"):
        main(few, [SignalAt("train", 1)])
    stopped = next(run for run in Fit(workplace, 130, "").runs if run.info.status == "KILLED").info.run_id
    main(["--resume", stopped])
    one, two = (torch.load(path, weights_only=True) for path in workplace.glob("mlruns/checkpoints/*/last.ckpt"))
    assert one["global_step"] == two["global_step"] == 4
    assert all(torch.equal(weight, two["state_dict"][name]) for name, weight in one["state_dict"].items())


class Planned(BoringModel):
    """A module that keeps the lengths of training that its optimizers were made with."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[float] = []

    def configure_optimizers(self) -> Any:
        self.lengths.append(self.trainer.estimated_stepping_batches)
        return super().configure_optimizers()


def test_optimizers_are_made_again_with_the_same_length() -> None:
    model, accumulated = Planned(), GradientAccumulationScheduler({0: 2})
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, limit_val_batches=0,
        callbacks=[accumulated, CurrentSettings()],
    )  # fmt: skip
    trainer.fit(model, DataLoader(RandomDataset(32, 8)))
    assert model.lengths == [8, 8]


def test_an_epoch_of_unknown_length_that_was_complete_is_finished() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True
    trainer.fit_loop.epoch_loop.batch_progress.current.ready = 3
    assert _finish_epoch(trainer)
    assert trainer.fit_loop.epoch_loop.batch_progress.current.ready == 3
