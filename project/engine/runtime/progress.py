"""A progress bar for work before training that takes more than a second."""

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

_WORTH_A_BAR_S = 1.0

Item = TypeVar("Item")


def with_progress_bar(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield the items; after a second, a progress bar shows how many of `total` are done."""
    start, progress = monotonic(), None
    try:
        for done, item in enumerate(items, 1):
            yield item
            if progress is None and monotonic() - start > _WORTH_A_BAR_S:
                console = Console(stderr=True)
                progress = Progress(console=console, transient=True, disable=not console.is_interactive)
                progress.add_task(description, total=total)
                progress.start()
            if progress is not None:
                progress.update(progress.task_ids[0], completed=done)
    finally:
        if progress is not None:
            progress.stop()
