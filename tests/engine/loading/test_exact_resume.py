"""Fits that are stopped and resumed, compared with an uninterrupted fit."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, run_ranks
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from project.engine.loading import (
    BatchLoader,
    Crop,
    EpochBatches,
    ImageArray,
    ImageFiles,
    Images,
    StepSeed,
    TorchDataset,
    Workers,
)
from project.engine.loading.augment import random_crop, random_flip
from project.engine.loading.loader import check_same_batches

COUNT, BATCH, EPOCHS = 50, 8, 2


class Net(LightningModule):
    """A net with dropout that records its images; the label of an image is its number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        self.seen: list[tuple[int, bytes]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen += [(int(label), image.numpy().tobytes()) for image, label in zip(images, labels, strict=True)]
        return F.cross_entropy(self.net(images.float() / 255), labels % 10)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.01)


class Samples(Dataset[tuple[Tensor, int]]):
    """A torch Dataset with torchvision's random transforms."""

    transform = v2.Compose([v2.RandomCrop(8, 2), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(pictures()[index]), index


def pictures() -> Tensor:
    return torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(images: Tensor, labels: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
    assert keys is not None
    return random_flip(random_crop(images, keys, 2), keys), labels


class InterruptedFitError(Exception):
    """Training was interrupted."""


class Stop(Callback):
    """Saves a checkpoint after a step and ends training, as a signal would."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedFitError


def loader(kind: str, rank: int = 0, ranks: int = 1) -> BatchLoader:
    labels = torch.arange(COUNT)
    store: Images
    if kind == "array":
        store = ImageArray(pictures(), labels)
    elif kind == "two threads":
        pixels = list(
            torch.randint(
                0, 256, (COUNT, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
            ).numpy()
        )
        store = ImageFiles(pixels, labels, torch.tensor([[20, 30]] * COUNT))
    else:
        store = TorchDataset(Samples(), labels)
    return BatchLoader(
        store,
        EpochBatches(COUNT, BATCH, shuffle=True, rank=rank, ranks=ranks),
        Crop(8, 0.3 if kind == "two threads" else None),
        augmented if kind == "array" else lambda *batch: batch[:2],
        seed=0,
        workers=Workers(num=2 if kind.startswith("two") else 0),
    )


def train(kind: str, folder: Path, stops: Sequence[int], devices: int = 1) -> Net:
    """Train, stop after each of these steps and resume; `seen` of the returned net has the images of all parts."""
    path = folder / "stopped.ckpt"
    seen: list[tuple[int, bytes]] = []
    for number, stop in enumerate([*stops, None]):
        net = Net()
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[StepSeed(), *([Stop(stop, path)] if stop else [])],
        )
        with suppress(InterruptedFitError):
            trainer.fit(net, loader(kind, trainer.global_rank, devices), ckpt_path=path if number else None)
        seen += net.seen
    net.seen = seen
    return net


@cache
def uninterrupted(kind: str) -> Net:
    """Train without a stop; tests only read the net."""
    return train(kind, Path(), [])


def weights(net: Net) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize(
    "kind", ["array", "two threads", "no process", pytest.param("two processes", marks=pytest.mark.faults)]
)
def test_a_fit_stopped_twice_in_an_epoch_ends_like_an_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    whole = uninterrupted(kind)
    assert sorted(label for label, _ in whole.seen) == sorted(EPOCHS * list(range(COUNT)))
    assert len(set(whole.seen)) > 1.5 * COUNT  # The augmentation of an image changes with the epoch.
    stopped = train(kind, tmp_path, [9, 11])  # An epoch has seven steps.
    assert stopped.seen == whole.seen
    assert torch.equal(weights(stopped), weights(whole))


@pytest.mark.parametrize("stop", [1, 6, 7])
def test_a_fit_can_be_stopped_at_any_step(stop: int, tmp_path: Path) -> None:
    whole, stopped = uninterrupted("array"), train("array", tmp_path, [stop])
    assert stopped.seen == whole.seen
    assert torch.equal(weights(stopped), weights(whole))


def test_loading_processes_do_not_change_the_images() -> None:
    assert uninterrupted("no process").seen == uninterrupted("two processes").seen


RANK = """
import torch
from pathlib import Path
from test_exact_resume import train, weights
for name, stops in (("whole", []), ("stopped", [1, 3])):
    net = train("two threads", Path(), stops, devices=2)
    torch.save((net.seen, weights(net)), f"{name}-{net.global_rank}.pt")
"""


@pytest.mark.faults
def test_two_ranks_use_each_remaining_image_once_and_end_with_the_same_weights(tmp_path: Path) -> None:
    paths = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/engine/loading'}"
    run_ranks("-c", RANK, folder=tmp_path, environment={"PYTHONPATH": paths})
    whole, stopped = ([torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)] for name in ("whole", "stopped"))
    assert sorted(label for seen, _ in whole for label, _ in seen) == sorted(EPOCHS * list(range(COUNT)))
    for (seen, after), (expected, expected_after) in zip(stopped, whole, strict=True):
        assert seen == expected
        assert torch.equal(after, expected_after)


def test_an_epoch_cannot_be_resumed_with_other_batches() -> None:
    whole = loader("array")
    batches = iter(whole)
    next(batches)
    smaller = loader("array")
    smaller.sampler.batch_size = 4
    state = whole.state_dict()
    with pytest.raises(ValueError, match=r"an epoch of 7 batches of 50 images on 1 devices .* now would be 13 batches"):
        smaller.load_state_dict(state)
    with pytest.raises(ValueError, match=r"with data.split_seed 0, which now would be .* with data.split_seed 7; use"):
        check_same_batches(state, EpochBatches(COUNT, BATCH, seed=7), whole.images.targets)


def test_batches_can_change_between_epochs() -> None:
    other = EpochBatches(COUNT, 4, seed=7, ranks=2)
    labels = torch.arange(COUNT)
    for taken, limit in ((0, None), (7, None), (3, 3)):
        whole = loader("array")
        whole.limit = limit
        list(islice(iter(whole), taken))
        check_same_batches(whole.state_dict(), other, labels)
    with pytest.raises(ValueError, match="in an epoch of 7 batches"):
        check_same_batches({**whole.state_dict(), "limit": 4}, other, labels)


def test_an_epoch_cannot_be_limited_to_fewer_batches_than_are_done() -> None:
    whole = loader("array")
    list(islice(iter(whole), 3))
    check_same_batches(whole.state_dict(), whole.sampler, whole.images.targets, 4)
    with pytest.raises(ValueError, match=r"after 3 batches of an epoch, .* end after 3; give .*limit_train_batches 4"):
        check_same_batches(whole.state_dict(), whole.sampler, whole.images.targets, 3)


def test_a_run_cannot_be_resumed_with_other_images_even_in_a_new_epoch() -> None:
    whole = loader("array")
    list(whole)
    with pytest.raises(ValueError, match=r"train had 50 images and now has 50, not all of them the same; use the file"):
        check_same_batches(whole.state_dict(), whole.sampler, whole.images.targets.flip(0))


def test_a_checkpoint_saved_before_the_first_batch_keeps_the_position_of_the_resume() -> None:
    stopped = loader("array")
    batches = iter(stopped)
    next(batches)
    again = loader("array")
    again.load_state_dict(stopped.state_dict())
    assert again.state_dict() == stopped.state_dict() != loader("array").state_dict()
