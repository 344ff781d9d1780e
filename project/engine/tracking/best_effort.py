"""Steps outside of training that may fail without ending the run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

_LONGEST_REASON = 300

_log = logging.getLogger(__name__)


class Tagged(Protocol):
    """A run that takes tags."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""


@contextmanager
def best_effort(run: Tagged | None, what: str, consequence: str) -> Iterator[None]:
    """Report an error of the block instead of raising it: one line in the terminal, and the tag `WHAT.error`.

    An exception that a signal raises is not caught.

    Args:
        run: Receives the tag; None if nothing is tracked.
        what: Name of the step, such as `report`.
        consequence: Start of the line, such as `the run has no report`.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  # Libraries that draw and export raise any exception.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]
        _log.warning("%s: %s", consequence, reason)
        if run is not None:
            run.set_tags({f"{what}.error": reason})
