"""The rule that ends a sweep whose trials fail one after the other."""

import re
from collections.abc import Mapping
from typing import Any

import optuna

from project.engine.search.study import DONE_STATES

_LIMIT_AT_FIRST, _LIMIT_LATER, _LIMIT_OF_ANY_KIND = 3, 10, 20
_NUMBER = r"\d[-+\d.e]*"


class HopelessError(RuntimeError):
    """Failure of so many trials in a row that the sweep ends."""


class FailureStreak:
    """The failures since the last trial that was complete or pruned. Failures that are retried do not count.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._failures: list[tuple[str, str]] = []  # parameters and reason

    def add(self, parameters: Mapping[str, Any], reason: str) -> None:
        """Add the failure of a trial."""
        self._failures.append((str(parameters), reason))

    def clear(self) -> None:
        """End the streak."""
        self._failures.clear()

    def hopeless(self) -> str | None:
        """Return the reason to start no more trials, or None. Running trials continue.

        The reason is that different settings in a row failed in the same way: three before a trial was successful, ten
        after that. Another reason is that twenty trials in a row failed in any way. Failures whose reasons differ only
        in their numbers count as failures in the same way.
        """
        if not self._failures:
            return None
        settings = len({parameters for parameters, _ in self._failures})
        successful = self._study.get_trials(deepcopy=False, states=DONE_STATES)
        reasons = {re.sub(_NUMBER, "#", reason) for _, reason in self._failures}
        reason = self._failures[-1][1]
        if len(reasons) == 1 and settings >= (_LIMIT_LATER if successful else _LIMIT_AT_FIRST):
            return f"{settings} settings in a row failed in the same way: {reason}"
        if len(self._failures) >= _LIMIT_OF_ANY_KIND:
            return f"{len(self._failures)} trials in a row failed; the last: {reason}"
        return None
