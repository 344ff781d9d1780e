"""The time that training waits for data: it is measured and logged, and a long wait is reported."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from tiny import TinyTask
from torch import Tensor
from torch.utils.data import Dataset

from project.data import LabelledImages
from project.engine.loading import BatchLoader, Crop, EpochBatches, ImageArray, Split, TorchDataset, Workers
from project.engine.loading.images import Fetched, Request
from project.fit import main

FEW = ["--model.class_path=tiny.TinyTask", "--model.net=tiny.TinyNet", "--max_epochs=1",
       "--trainer.log_every_n_steps=4"]  # fmt: skip


class Sleepy(Dataset[tuple[Tensor, int]]):
    """A dataset that needs ten milliseconds per image."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.01)
        return torch.full((1, 16, 16), index, dtype=torch.uint8), index % 2


class Slow(LabelledImages):
    """A datamodule of slow images."""

    name = "slow"
    native_size, native_channels = 16, 1
    native_mean, native_std = (0.5,), (0.5,)
    class_names = ("even", "odd")

    def load(self, split: Split) -> TorchDataset | None:
        """Return the images of train or val."""
        return None if split == "test" else TorchDataset(Sleepy(), torch.arange(64 if split == "train" else 8) % 2)


class SlowTask(TinyTask):
    """A task whose steps take much longer than loading a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(0.3)
        return super().training_step(batch, batch_idx)


class Device:
    """A device with its own clock, which executes queued steps in order while its caller continues."""

    def __init__(self) -> None:
        self.now = self.idle_from = 0.0

    def step(self, seconds: float) -> None:
        """Queue a step."""
        self.idle_from = max(self.now, self.idle_from) + seconds


class Event:
    """The moment at which all steps of a device that are queued now are done."""

    def __init__(self, device: Device) -> None:
        self.device, self.time = device, max(device.now, device.idle_from)

    def query(self) -> bool:
        """Return whether the device has reached the moment."""
        return self.time <= self.device.now

    def elapsed_time(self, end: "Event") -> float:
        """Return the time between two moments, in milliseconds."""
        return 1000 * (end.time - self.time)


class Gathered(ImageArray):
    """Images whose gathering takes time on the device's clock."""

    device: Device
    gather_s: float

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the requested batches."""
        for batch in super().stream(requests, workers, crop):
            self.device.now += self.gather_s
            yield batch


@pytest.mark.parametrize(
    ("step_s", "gather_s", "waited_s"),
    [
        (10.0, 1.0, 1.0),  # Only the first batch: the others are gathered while the device works.
        (1.0, 10.0, 10.0 + 19 * 9.0),
        (5.0, 6.0, 6.0 + 19 * 1.0),
    ],
)
def test_a_device_that_is_busy_does_not_wait(
    step_s: float, gather_s: float, waited_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, device = Gathered(torch.zeros((20, 1, 2, 2), dtype=torch.uint8), torch.zeros(20)), Device()
    images.device, images.gather_s = device, gather_s
    loader = BatchLoader(images, EpochBatches(20, 1), Crop(2), lambda *batch: batch[:2])
    monkeypatch.setattr("project.engine.loading.wait.mark", lambda _: Event(device))
    for _ in loader:
        device.step(step_s)
    device.now = device.idle_from
    assert loader.wait_s == pytest.approx(waited_s)


def test_a_training_that_waits_reports_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data.class_path=test_wait.Slow", "--data.batch_size=8", "--data.workers.num=0", *FEW])
    assert Fit(workplace, 0, "").run.data.metrics["data/wait_fraction"] > 0.5
    output = capsys.readouterr().out
    assert "waited for data" in output
    assert "--data.workers.num N" in output


def test_a_training_that_does_not_wait_reports_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data=tiny.Tiny", "--data.batch_size=4", "--model.class_path=test_wait.SlowTask", *FEW[1:]])
    assert Fit(workplace, 0, "").run.data.metrics["data/wait_fraction"] < 0.1
    assert "waited for data" not in capsys.readouterr().out
