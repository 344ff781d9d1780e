"""Steps beside training that may fail without ending the run."""

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

    A signal is not an error: what it raises passes.

    Args:
        run: Gets the tag; None where nothing is tracked.
        what: Name of the step, such as `report`.
        consequence: Start of the line, such as `the run has no report`.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  # the libraries that draw and export raise errors of every kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]
        _log.warning("%s: %s", consequence, reason)
        if run is not None:
            run.set_tags({f"{what}.error": reason})
