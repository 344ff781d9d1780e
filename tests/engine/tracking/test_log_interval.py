"""The logging interval: some 50 points in an epoch, for any number of batches, without Lightning's warning."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from tiny import TINY, Tiny
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from project.engine.loading import ImageArray, Split
from project.engine.tracking.log_interval import LogInterval, log_interval
from project.fit import main


class TwoHundred(Tiny):
    """200 train images, and 8 of each other split."""

    def load(self, split: Split) -> ImageArray:
        few = super().load(split)
        if split != "train":
            return few
        places = torch.arange(200) % len(few.targets)
        return ImageArray(few.images[places], few.targets[places])


@pytest.mark.parametrize(("batch_size", "points"), [(100, 2), pytest.param(1, 50, marks=pytest.mark.faults)])
def test_an_epoch_of_any_length_has_some_fifty_points(
    batch_size: int, points: int, workplace: Path, recwarn: pytest.WarningsRecorder
) -> None:
    main([*TINY, "--data.class_path=test_log_interval.TwoHundred", f"--data.batch_size={batch_size}", "--max_epochs=1"])
    run = Fit(workplace, 0, "")
    for name in ("train/loss", "throughput/samples_per_second", "lr"):
        assert len(run.client.get_metric_history(run.run.info.run_id, name)) == points, name
    assert not [str(one.message) for one in recwarn if "logging interval" in str(one.message)]


class Endless(IterableDataset[Tensor]):
    """Data without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.ones(3, 32))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6),
        ({"accumulate_grad_batches": 3}, 2),
        ({"max_steps": 100}, 2),
        ({"limit_train_batches": 0.5}, 3),
        ({"endless": True}, 50),
        ({"endless": True, "limit_train_batches": 100}, 2),
    ],
)
def test_the_interval_follows_the_steps_of_an_epoch(options: dict[str, Any], expected: int) -> None:
    data = Endless() if options.pop("endless", False) else RandomDataset(32, 300)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[LogInterval()], **{"max_epochs": 1} | options,
    )  # fmt: skip
    trainer.fit(BoringModel(), DataLoader(data))
    assert trainer.log_every_n_steps == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(("steps", "interval"), [(0.5, 1), (98, 2), (1000, 20), (10**6, 50), (inf, 50)])
def test_a_long_epoch_has_more_points(steps: float, interval: int) -> None:
    assert log_interval(steps) == interval
