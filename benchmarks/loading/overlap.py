"""Measurement of copies to a GPU that run while it computes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.loading.peers import BATCH, SIZE
from project.engine.loading.images import Batch, Fetched
from project.engine.loading.prefetch_to_device import on_device


def measure_overlap(steps: int = 50) -> dict[str, float]:
    """Measure milliseconds per step on a GPU: the model, the copy, their sum, and both at the same time."""
    device = torch.device("cuda")
    net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(20))).to(device)
    source = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8).pin_memory()
    fetched = Fetched(source, torch.zeros(BATCH, dtype=torch.int64).pin_memory(), None)
    resident = source.to(device)

    def milliseconds(batches: Iterable[Any], work: Callable[[Tensor], object]) -> float:
        start, end = torch.cuda.Event(True), torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        start.record()
        for images, *_ in batches:
            work(images)
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / steps

    def model(images: Tensor) -> Tensor:
        logits: Tensor = net(images.float())
        return logits

    def copied() -> Iterator[Batch]:
        return on_device(iter([fetched] * steps), lambda batch: (batch.images, batch.targets), device)

    for _ in range(2):  # The first pass warms up.
        measured = {
            "model": milliseconds([(resident,)] * steps, model),
            "copy": milliseconds(copied(), lambda _: None),
            "both": milliseconds(copied(), model),
        }
    return measured | {"copy, then compute": measured["copy"] + measured["model"]}
