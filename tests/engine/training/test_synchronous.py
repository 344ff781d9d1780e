"""The options that make training wait: for the MLflow store, and for the disk."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from tiny import TINY
from typing_extensions import override

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.checkpoints.durable import DurableCheckpointIO, is_valid
from project.engine.tracking.logger import MLflowLogger
from project.fit import main


class Stored(Callback):
    """Reads what is stored before each training step: the points of the loss, and the step of `last.ckpt`."""

    def __init__(self) -> None:
        self.points: list[int] = []
        self.checkpoints: list[int] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        logger, checkpoint = MLflowLogger.of(trainer), RunCheckpoint.of(trainer)
        if logger is None or checkpoint is None or checkpoint.dirpath is None:  # the check before the run
            return
        self.points.append(len(MlflowClient().get_metric_history(str(logger.version), "train/loss")))
        last = Path(checkpoint.dirpath) / "last.ckpt"
        self.checkpoints.append(torch.load(last, weights_only=True)["global_step"] if last.exists() else 0)


def test_training_waits_until_the_store_has_each_metric_and_the_disk_each_checkpoint(workplace: Path) -> None:
    stored = Stored()
    waits = ["--tracking.asynchronous=false", "--checkpoint.asynchronous=false"]
    main([*TINY, *waits, "--max_epochs=3", "--trainer.log_every_n_steps=1"], [stored])
    assert stored.points == list(range(12))
    assert stored.checkpoints == [0] * 4 + [4] * 4 + [8] * 4
    (run,) = MlflowClient().search_runs(["1"])
    assert (run.info.status, run.data.params["tracking.asynchronous"]) == ("FINISHED", "False")
    assert "test/accuracy" in run.data.metrics


def test_a_synchronous_save_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    weight = torch.zeros(5_000_000)
    storage = DurableCheckpointIO(asynchronous=False)
    storage.save_checkpoint({"weight": weight}, tmp_path / "last.ckpt")
    assert is_valid(tmp_path / "last.ckpt")
    storage.remove_checkpoint(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
