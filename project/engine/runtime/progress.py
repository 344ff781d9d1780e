"""A progress bar for work outside of training that takes more than a second."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

WORTH_A_BAR_S = 1.0

Item = TypeVar("Item")


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar for a block of code that takes more than a second, if a person is at the terminal.

    Yields:
        A function to call with the part of `total` that is done.
    """
    console, start = Console(stderr=True), monotonic()
    bar = Progress(console=console, transient=True, disable=not console.is_interactive)
    task = bar.add_task(description, total=total)

    def show(done: float) -> None:
        if not bar.disable and monotonic() - start > WORTH_A_BAR_S:
            bar.start()
            bar.update(task, completed=done)

    try:
        yield show
    finally:
        bar.stop()


def with_progress_bar(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield the items; after a second, a progress bar shows how many of `total` are done."""
    with progress_bar(description, total) as show:
        for done, item in enumerate(items, 1):
            yield item
            show(done)
