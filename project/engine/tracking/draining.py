"""The delivery at the end of a run, with its progress bar and its report."""

from math import inf
from time import monotonic

from rich.console import Console

from project.engine.runtime.progress import WORTH_A_BAR_S, progress_bar
from project.engine.tracking.delivery import Courier
from project.engine.tracking.spool import Spool


def drain(courier: Courier, spool: Spool, within_s: float = inf) -> bool:
    """Deliver what is left in a spool, and report what the store does not take.

    Args:
        courier: Delivers the spool.
        spool: The spool.
        within_s: Longest wait in seconds.

    Returns:
        See `Courier.drain`.
    """
    console, start = Console(stderr=True, highlight=False), monotonic()
    try:
        with progress_bar("delivering to MLflow", 1.0) as show:
            return courier.drain(show, within_s)
    finally:
        seconds = monotonic() - start
        if spool.waiting:
            console.print(
                f"the MLflow store does not have everything yet ({courier.trouble or 'there was no time'}); the rest "
                f"is kept in {spool.folder}\ndeliver it with: python -m project.sync",
                style="yellow",
                soft_wrap=True,
            )
        elif seconds > WORTH_A_BAR_S:
            console.print(f"delivered to MLflow in {seconds:.1f} s after training")
