"""Faults of loading processes end in an error that names the cause and the option."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor
from torch.utils.data import Dataset

from project.engine.loading import Crop, Split, TorchDataset, Workers
from project.engine.loading.images import Fetched, Images, Request, fetch
from project.engine.loading.worker_dataset import _next
from project.engine.loading.workers import LoadingError

CROP = Crop(4)


@pytest.fixture(autouse=True)
def _no_wait_for_loading_processes() -> Iterator[None]:
    """End the processes of a loader that has failed; torch waits five seconds for each."""
    yield
    for process in active_children():
        process.kill()


class Faulty(Dataset[tuple[Tensor, int | Tensor]]):
    """A dataset that fails at its third sample."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        if index == 2:
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.fault == "bus error":  # Writing to a full /dev/shm raises SIGBUS.
                os.kill(os.getpid(), signal.SIGBUS)
            elif self.fault == "no space":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            elif self.fault == "no space for targets":
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
                return torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(101, dtype=torch.uint8)
            elif self.fault == "times out":
                raise TimeoutError("The read operation timed out")
            elif self.fault == "hangs":
                time.sleep(2)
            else:
                raise KeyError("the dataset's own")
        return torch.zeros(3, 4, 4, dtype=torch.uint8), index


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("killed", "a loading process died, .* a smaller --data.workers.num"),
        ("bus error", "lacks shared memory; .* --shm-size"),
        ("no space", "lacks shared memory; .* --data.workers.prefetch_factor"),
        ("no space for targets", "lacks shared memory; .* --data.workers.prefetch_factor"),
        ("hangs", "no batch in 1 s; .* --data.workers.timeout_s"),
    ],
)
def test_a_fault_of_a_process_is_explained(fault: str, message: str) -> None:
    store = TorchDataset(Faulty(fault), torch.arange(8))
    requests = iter([Request(torch.tensor([index]), None) for index in range(8)])
    with pytest.raises(LoadingError, match=message):
        list(store.stream(requests, Workers(pin_memory=False, num=1, timeout_s=1 if fault == "hangs" else 30), CROP))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("fault", "error"), [("own", KeyError), ("times out", TimeoutError)])
def test_an_error_of_the_dataset_is_raised_unchanged(fault: str, error: type[Exception], workers: int) -> None:
    store = TorchDataset(Faulty(fault), torch.arange(8))
    with pytest.raises(error, match=r"the dataset's own|The read operation timed out"):
        list(store.stream(iter([Request(torch.tensor([2]), None)]), Workers(pin_memory=False, num=workers), CROP))


def test_an_error_of_the_thread_that_pins_memory_is_raised_unchanged() -> None:
    def batches() -> Iterator[Fetched]:  # There is no such thread without a GPU.
        raise torch.OutOfMemoryError("Caught OutOfMemoryError in pin memory thread for device 0.")
        yield

    with pytest.raises(torch.OutOfMemoryError):
        _next(batches(), Workers(num=1))


PIXELS = torch.zeros(3, 4, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([PIXELS / 255], r"sample 0 is torch.float32 of shape \(3, 4, 5\); TorchDataset takes uint8 tensors"),
        ([PIXELS[0]], r"sample 0 is torch.uint8 of shape \(4, 5\); TorchDataset takes uint8 tensors"),
        ([PIXELS.numpy()], "sample 0 is a ndarray; .* as torchvision's pil_to_tensor gives"),
        ([PIXELS, PIXELS[:, 1:]], r"sample 1 has the shape \(3, 3, 5\), and another of its batch \(3, 4, 5\)"),
        ([PIXELS, PIXELS, PIXELS], "got 2 targets for 3 samples"),
    ],
)
def test_samples_of_an_unsupported_type_are_refused(samples: list[Tensor], message: str) -> None:
    labelled, labels = [(image, 0) for image in samples], torch.zeros(min(2, len(samples)), dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        fetch(TorchDataset(labelled, labels), torch.arange(2), CROP)


def test_an_epoch_that_ends_early_leaves_no_batch_to_the_next(tmp_path: Path) -> None:
    store = TorchDataset(Faulty("hangs"), torch.arange(8))
    workers = Workers(pin_memory=False, num=1, timeout_s=30)
    batches = store.stream(iter([Request(torch.tensor([index]), None) for index in (0, 2, 1)]), workers, CROP)
    next(batches)
    batches.close()  # The process still has two seconds of work.
    again = store.stream(iter([Request(torch.tensor([index]), None) for index in (3, 4)]), workers, CROP)
    assert [int(batch.targets) for batch in again] == [3, 4]


def test_a_subset_has_its_samples_and_labels() -> None:
    part = TorchDataset(Faulty("none"), torch.arange(8)).subset(torch.tensor([7, 4, 0])).subset(torch.tensor([2, 1]))
    assert fetch(part, torch.arange(2), CROP).targets.tolist() == part.targets.tolist() == [0, 4]


class Shifted(Dataset[tuple[Tensor, int]]):
    """40 samples of noise, shifted at random or not."""

    def __init__(self, *, at_random: bool) -> None:
        self.pixels = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.at_random = at_random

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        shift = int(torch.randint(8, ())) if self.at_random else 0
        return self.pixels[index].roll(shift, 2), index % 2


class ShiftedInTraining(Tiny):
    def load(self, split: Split) -> TorchDataset | None:  # type: ignore[override]
        return TorchDataset(Shifted(at_random=True), torch.arange(40) % 2) if split == "train" else None

    def as_validated(self, train: Images) -> TorchDataset:
        return TorchDataset(Shifted(at_random=False), train.targets)


def test_a_part_of_train_is_validated_without_the_random_transforms_of_training() -> None:
    data = ShiftedInTraining(val_fraction=0.5)
    data.setup("fit")
    first, second = (data.fetch("val", torch.arange(20)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(data.fetch("train", torch.arange(20))[0], data.fetch("train", torch.arange(20))[0])
