"""The exit of a command after bad input: exit code 2 and at most three lines, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from lightning.fabric.utilities.exceptions import MisconfigurationException
from mlflow.exceptions import MlflowException

from project.engine.loading import LoadingError

BAD_INPUT = 2
_LONGEST = 400


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Print an error about the input as one line, and exit with code 2."""
    try:
        yield
    except (ValueError, OSError, MisconfigurationException, MlflowException, LoadingError) as error:
        print(f"error: {shorten(str(error), _LONGEST, placeholder=' …')}", file=sys.stderr)
        sys.exit(BAD_INPUT)
