"""The end of a run: its status says how the process ended."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project.tracking.logger import MLflowLogger


@contextmanager
def ended_truly(trainer: Trainer) -> Iterator[None]:
    """Close the trainer's MLflow run as FINISHED, KILLED when interrupted, or FAILED on any other error.

    Raises:
        SystemExit: The block was interrupted: 130 after Ctrl-C, 143 after SIGTERM.
    """
    logger = trainer.logger if isinstance(trainer.logger, MLflowLogger) else None
    status, code = "FAILED", None
    try:
        yield
        status = "FINISHED"
    except SIGTERMException:
        status, code = "KILLED", 128 + signal.SIGTERM
    except KeyboardInterrupt:
        status, code = "KILLED", 128 + signal.SIGINT
    except SystemExit as error:
        # Lightning answers Ctrl-C with exit code 1, inside its handler of KeyboardInterrupt.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        status, code = "KILLED", 128 + signal.SIGINT
    finally:
        if logger is not None:
            logger.end(status)
    if code is not None:
        raise SystemExit(code)
