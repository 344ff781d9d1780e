"""How long training waited for data: measured, logged, and said in words when it is much."""

import time
from pathlib import Path

import pytest
import torch
from conftest import Fit
from torch import Tensor
from torch.utils.data import Dataset

from project.data import ImageDataModule
from project.data.datamodule import Split
from project.fit import main
from project.loading import TorchDataset

FEW = ["--max_epochs=1", "--model.net.widths=[2,2,2,2]", "--model.net.hidden=4", "--trainer.log_every_n_steps=4"]


class Sleepy(Dataset[tuple[Tensor, int]]):
    """Takes ten milliseconds for an image."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.01)
        return torch.full((1, 16, 16), index, dtype=torch.uint8), index % 2


class Slow(ImageDataModule):
    """Images that come slowly."""

    name = "slow"
    native_size, native_channels = 16, 1
    native_mean, native_std = (0.5,), (0.5,)
    class_names = ("even", "odd")

    def load(self, split: Split) -> TorchDataset | None:
        """The images of train and val."""
        return None if split == "test" else TorchDataset(Sleepy(), torch.arange(64 if split == "train" else 8) % 2)


def test_a_training_that_waits_says_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data.class_path=test_waiting.Slow", "--data.batch_size=8", "--data.num_workers=0", *FEW])
    assert Fit(workplace, 0, "").run.data.metrics["data/wait_fraction"] > 0.5
    said = capsys.readouterr().out
    assert "waited for data" in said
    assert "--data.num_workers N" in said


def test_a_training_that_does_not_wait_does_not(main_job: Fit) -> None:
    assert main_job.run.data.metrics["data/wait_fraction"] < 0.1
    assert "waited for data" not in main_job.output
