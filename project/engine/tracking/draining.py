"""The progress bar and the report of delivery at the end of a run."""

from collections.abc import Callable
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import Progress

from project.engine.tracking.spool import Spool

_WORTH_A_BAR_S = 1.0


class Draining:
    """Progress bar that appears if delivery takes more than a second, and a report at the end.

    Args:
        spool: Spool that is delivered.
        trouble: Returns the reason why the store does not take it; empty if it does.
    """

    def __init__(self, spool: Spool, trouble: Callable[[], str]) -> None:
        self._spool, self._trouble = spool, trouble
        self._start = monotonic()
        self._bar: Progress | None = None
        self._console = Console(stderr=True, highlight=False)

    def __enter__(self) -> Callable[[float], None]:
        return self._show

    def _show(self, share: float) -> None:
        if self._bar is None and monotonic() - self._start > _WORTH_A_BAR_S:
            self._bar = Progress(console=self._console, transient=True, disable=not self._console.is_interactive)
            self._bar.add_task("delivering to MLflow", total=1.0)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = monotonic() - self._start
        if self._bar is not None:
            self._bar.stop()
            if not self._spool.waiting:
                self._console.print(f"delivered to MLflow in {seconds:.1f} s after training")
        if self._spool.waiting:
            self._console.print(
                f"the MLflow store does not have everything yet ({self._trouble() or 'there was no time'}); the rest "
                f"is kept in {self._spool.folder}\ndeliver it with: python -m project.sync",
                style="yellow",
                soft_wrap=True,
            )
