"""The validations that a trial reports, each with its number."""

from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, Tiny
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from project.engine.search.messages import Report
from project.engine.search.reporter import Reporter
from project.fit import main


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images, whose number a loader does not know."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.rand(16, 1, 8, 8), torch.arange(16) % 2, strict=True)


class Streamed(Tiny):
    def train_dataloader(self) -> DataLoader[Any]:  # type: ignore[override]
        return DataLoader(Stream(), 4)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--max_epochs=2"], [0, 1]),
        (["--max_epochs=2", "--trainer.val_check_interval=2"], [0, 1, 2, 3]),
        (["--trainer.max_steps=2", "--trainer.val_check_interval=3"], [0]),  # The last step is validated, too.
        (["--max_epochs=3", "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"], [0, 1, 2, 3]),
        (["--data=test_reporter.Streamed", "--trainer.max_steps=8", "--trainer.val_check_interval=2"], [0, 1, 2, 3]),
    ],
)
def test_each_validation_has_the_next_number(options: Sequence[str], numbers: list[int], workplace: Path) -> None:
    ours, theirs = Pipe()
    main([*TINY, "--trainer.logger=false", *options], [Reporter(theirs, ["val/loss"])])
    received = []
    while ours.poll():
        received.append(ours.recv())
    assert [message.step for message in received if isinstance(message, Report)] == numbers
