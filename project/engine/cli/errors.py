"""The exit of a command after bad input: exit code 2 and at most three lines, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from project.engine.runtime.failure import shortened

BAD_INPUT = 2
_OF_LIBRARIES = {
    "mlflow.exceptions": "MlflowException",
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
    "project.engine.loading.workers": "LoadingError",
}


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Print an error about the input as one line, and exit with code 2."""
    try:
        yield
    except _bad_input() as error:
        print(f"error: {shortened(str(error))}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _bad_input() -> tuple[type[Exception], ...]:
    """Return the errors of bad input, with those of libraries that the command has imported; few import all."""
    loaded = (getattr(sys.modules[module], name) for module, name in _OF_LIBRARIES.items() if module in sys.modules)
    return (ValueError, OSError, *loaded)
