"""Batches that are copied to the device, and whose memory is reused."""

from collections.abc import Iterator

import pytest
import torch

from project.engine.loading.images import Fetched
from project.engine.loading.prefetch_to_device import on_device
from project.engine.loading.threads import Buffers

COUNT = 20
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def reused(buffers: Buffers) -> Iterator[Fetched]:
    """Yield batches that each contain one number, in memory that is reused when nothing references it."""
    for number in range(COUNT):
        array, images = buffers.take(64)
        array[:] = number
        yield Fetched(images, torch.full((64,), number), None)
        del array, images


@pytest.mark.parametrize("device", DEVICES)
def test_no_batch_is_overwritten_before_it_is_copied(device: str) -> None:
    buffers = Buffers((3, 64, 64), pin_memory=device == "cuda")
    moved = on_device(reused(buffers), lambda batch: (batch.images.clone(), batch.targets), torch.device(device))
    for number, (images, labels) in enumerate(moved):
        assert images.device.type == device
        assert (images == number).all()
        assert (labels == number).all()
