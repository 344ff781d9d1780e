"""The settings of a process that runs a command: output, logging, warnings, memory, and parsing."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from jsonargparse import set_parsing_settings
from typing_extensions import override

from project.engine import compat
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.runtime.output import prepare_output

_LEVELS = {
    # Devices, seeds, restored checkpoints and created tables are recorded in the run, or of no use to the user.
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "pytorch_lightning": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # It logs 130 lines for each error of the database, and raises the error, which is reported in one line.
    "mlflow.store.db.utils": logging.CRITICAL,
    # uv creates environments without pip; MLflow warns about this for each model.
    "mlflow.utils.environment": logging.ERROR,
    # The user chose the profiler and the callbacks that print notes.
    "lightning.pytorch.profilers": logging.INFO,
    "lightning.pytorch.callbacks": logging.INFO,
    # MLflow sets the root logger to ERROR.
    "project": logging.WARNING,
}
_MLFLOW = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # The URL may contain a password.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # Without git, MLflow would print 45 lines.
}


def configure_process() -> None:
    """Configure this process for a command."""
    prepare_output()
    keep_freed_memory()
    _print_messages_in_lines()
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)
    # `--trainer.overfit_batches`: this project's loader repeats its batches in their order.
    warnings.filterwarnings("ignore", "You requested to overfit but enabled", UserWarning)
    # Pillow warns about the damaged metadata of each file, such as a tag that is too long. It is not needed.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # On the login node of a cluster no job is intended; in a job, `devices_for` checks what srun has started.
    warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used", UserWarning)
    # The settings of a run contain what jsonargparse cannot serialize, such as the function of ModelPruning, as text.
    warnings.filterwarnings("ignore", r"\s*Unable to serialize instance", UserWarning)
    # A newer torch deprecates what Lightning calls.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    # A setting that names a class must not name one that runs commands; jsonargparse has the list.
    set_parsing_settings(import_path_denylist=[])


class _Line(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _print_messages_in_lines() -> None:
    """Print log messages and warnings as `warning: MESSAGE`, to the current standard error.

    mlflow.pytorch configures the root logger, with the stream of its import and the path of the logger, unless the
    root logger has a handler: https://github.com/mlflow/mlflow/blob/v3.0.0/mlflow/pytorch/_lightning_autolog.py#L25
    """
    root, handler = logging.getLogger(), logging.lastResort
    for other in tuple(root.handlers):
        if type(other) is logging.StreamHandler:
            root.removeHandler(other)
    if handler is not None and not root.handlers:
        handler.setFormatter(_Line())
        root.addHandler(handler)
    warnings.formatwarning = _warning_line  # type: ignore[assignment]


def _warning_line(
    message: Warning | str, _category: type[Warning], filename: str, lineno: int, *_rest: str | None
) -> str:
    """Return a warning in one line, with the library that raised it, or the place in another file."""
    _, found, path = filename.rpartition("/site-packages/")
    place = path.partition("/")[0] if found else f"{filename}:{lineno}"
    return f"warning: {' '.join(str(message).split())} ({place})\n"


@contextmanager
def command_process() -> Iterator[None]:
    """Configure this process for a block of code, and release at its end what libraries keep."""
    with ExitStack() as stack:
        stack.enter_context(_restored_environment())
        stack.enter_context(_closed_process_group())
        stack.callback(compat.close_store_connections)
        configure_process()
        yield


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Restore the environment variables of this process when the block ends, also those that Lightning sets."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _closed_process_group() -> Iterator[None]:
    """Destroy the process group that a block of code starts, because Lightning keeps it.

    After an error, a group of several ranks is kept until its process ends: another rank may wait in a collective.
    """
    from torch import distributed  # Commands that start without torch configure their process, too.

    started, hook, failed = distributed.is_initialized(), sys.excepthook, True
    try:
        yield
        failed = False
    finally:
        if distributed.is_initialized() and not started and (distributed.get_world_size() == 1 or not failed):
            distributed.destroy_process_group()
            sys.excepthook = hook  # the hook of torch prints the rank
