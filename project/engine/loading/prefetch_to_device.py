"""Prefetching to the device: a batch is copied and finished while the model works on the previous one."""

from collections import deque
from collections.abc import Callable, Iterator

import torch

from project.engine.loading.images import Batch, Fetched

Finished = Callable[[Fetched], Batch]


def on_device(batches: Iterator[Fetched], finish: Finished, device: torch.device) -> Iterator[Batch]:
    """Yield batches on their device; on a CUDA device each is copied and finished one step ahead.

    Args:
        batches: Batches on the CPU; from page-locked memory they are copied asynchronously.
        finish: Last step; called with a batch on the device.
        device: Target device.
    """
    if device.type == "cuda":
        yield from _ahead(batches, finish, device)
        return
    for batch in batches:
        yield finish(_moved(batch, device))


def _ahead(batches: Iterator[Fetched], finish: Finished, device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    started: deque[tuple[Batch, torch.cuda.Event, Fetched]] = deque()

    def start(source: Fetched) -> None:
        with torch.cuda.stream(stream):
            batch = finish(_moved(source, device))
            started.append((batch, stream.record_event(), source))

    for source in batches:
        start(source)
        if len(started) > 1:
            yield from _handed_over(*started.popleft())
    if started:
        yield from _handed_over(*started.popleft())


def _handed_over(batch: Batch, copied: torch.cuda.Event, source: Fetched) -> Iterator[Batch]:
    current = torch.cuda.current_stream(batch[0].device)
    current.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(current)  # The copying stream owns the memory, and this stream uses it.
    try:
        yield batch
    finally:
        copied.synchronize()  # The copy ended long ago. The source's memory may be reused now.
        del source


def _moved(batch: Fetched, device: torch.device) -> Fetched:
    ahead = device.type == "cuda"  # An event marks the end of the copy.
    return batch._replace(
        images=batch.images.to(device, non_blocking=ahead), targets=batch.targets.to(device, non_blocking=ahead)
    )
