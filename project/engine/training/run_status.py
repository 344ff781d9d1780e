"""The end of a run: its status says how the process ended."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from project.engine.tracking.logger import MLflowLogger

_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_LAST_LINES = 20


@contextmanager
def mlflow_run_status(logger: MLflowLogger | None) -> Iterator[None]:
    """Close the logger's run as FINISHED, KILLED when interrupted, or FAILED on any other error."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except SystemExit as error:
        status = "KILLED" if error.code in _INTERRUPTED else "FAILED"
        raise
    except BaseException as error:
        if logger is not None:
            lines = traceback.format_exception(error)
            logger.set_tags({"error": "".join(lines[-1:]).strip(), "traceback": "".join(lines[-_LAST_LINES:])})
            logger.log_text("".join(lines), "traceback.txt")
        raise
    finally:
        if logger is not None:
            logger.end(status)
