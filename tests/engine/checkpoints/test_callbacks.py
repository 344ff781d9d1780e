"""Callbacks of the user's that save, or average, the weights that the run saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_checkpoint import SMALL, best_metrics, checkpoints, score
from test_interrupt import SignalAt

from project.engine.checkpoints.checkpoint import use_folder
from project.engine.checkpoints.newest import best_checkpoint, newest_checkpoint
from project.fit import main

EMA = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
HEAD = "net.head.weight"
SWA = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01",
       "--trainer.callbacks.swa_epoch_start=1"]  # fmt: skip


class Moves(Callback):
    """Saves a checkpoint of its own, and moves it immediately."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.save_checkpoint("own.ckpt")
        Path("own.ckpt").rename("moved")


def test_the_run_keeps_its_checkpoints_beside_those_of_the_user(workplace: Path) -> None:
    main([*SMALL, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=4",
          "--trainer.callbacks.save_weights_only=true", "--trainer.callbacks.save_last=true",
          "--trainer.callbacks.filename=best-{epoch}"], [Moves()])  # fmt: skip
    fit = Fit(workplace, 0, "")
    saved = checkpoints(workplace)
    assert set(saved) == {"best-epoch000.ckpt", "last.ckpt", "best-epoch=0.ckpt", "ModelCheckpoint-last.ckpt"}
    assert {name: "optimizer_states" in state for name, state in saved.items()} == {
        "best-epoch000.ckpt": True, "last.ckpt": True, "best-epoch=0.ckpt": False, "ModelCheckpoint-last.ckpt": False
    }  # fmt: skip
    assert len(list(workplace.rglob("*.ckpt"))) == len(saved)  # and none elsewhere
    (folder,) = workplace.glob("mlruns/checkpoints/*")
    assert (folder / "last.ckpt").samefile(folder / "best-epoch000.ckpt")  # written once
    assert newest_checkpoint(folder) == folder / "last.ckpt"
    assert best_checkpoint(folder, monitored=True) == folder / "best-epoch000.ckpt"
    assert score(saved["best-epoch000.ckpt"]["state_dict"]) == pytest.approx(best_metrics(fit), abs=1e-5)


def test_the_last_checkpoint_of_the_user_has_one_name_on_all_ranks() -> None:
    user = ModelCheckpoint(save_last=True)
    trainer = Trainer(callbacks=[user], logger=False, enable_progress_bar=False, accelerator="cpu")
    user.dirpath = "folder"  # Lightning has sent it from the first rank.
    use_folder(trainer, Path("folder"))
    assert user.CHECKPOINT_NAME_LAST == "ModelCheckpoint-last"


def test_averaged_weights_are_validated_saved_and_tested(workplace: Path) -> None:
    main([*SMALL, *EMA, "--max_epochs=2", "--trainer.max_steps=11"])
    fit = Fit(workplace, 0, "")
    saved = checkpoints(workplace)
    best = saved.pop(next(name for name in saved if name.startswith("best")))
    assert saved["last.ckpt"]["global_step"] == 11
    assert not torch.equal(best["state_dict"][HEAD], best["current_model_state"][HEAD])
    assert score(best["state_dict"]) == pytest.approx(best_metrics(fit), abs=1e-5)


@pytest.mark.faults
def test_averaged_weights_survive_an_interrupted_validation(workplace: Path) -> None:
    main([*SMALL, *EMA, "--max_epochs=2"])
    with pytest.raises(SystemExit, match="130"):
        main([*SMALL, *EMA, "--max_epochs=2"], [SignalAt("validation", 1)])
    stopped = next(run for run in Fit(workplace, 130, "").runs if run.info.status == "KILLED").info.run_id
    main(["--resume", stopped])
    one, two = (torch.load(path, weights_only=True) for path in workplace.glob("mlruns/checkpoints/*/last.ckpt"))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(weight, two[part][name]) for name, weight in one[part].items())


class EpochStarts(Callback):
    """Copies the weights at the start of each epoch, which stochastic weight averaging takes the mean of."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(dict(pl_module.named_parameters())[HEAD].detach().clone())


@pytest.mark.faults
def test_weights_that_are_averaged_after_training_are_validated_and_saved(workplace: Path) -> None:
    starts = EpochStarts()
    main([*SMALL, *SWA, "--max_epochs=3"], [starts])
    fit = Fit(workplace, 0, "")
    saved = checkpoints(workplace)
    best: dict[str, Any] = saved[next(name for name in saved if name.startswith("best"))]
    mean = torch.stack(starts.weights).mean(0)
    torch.testing.assert_close(saved["last.ckpt"]["state_dict"][HEAD], mean)
    last = max(fit.client.get_metric_history(fit.run.info.run_id, "val/loss"), key=lambda point: point.timestamp)
    assert score(saved["last.ckpt"]["state_dict"])["val/loss"] == pytest.approx(last.value, abs=1e-5)
    assert score(best["state_dict"]) == pytest.approx(best_metrics(fit), abs=1e-5)
