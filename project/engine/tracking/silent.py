"""A logger that writes nothing, for modules that call the methods of a logger of their own."""

from lightning.pytorch.loggers.logger import DummyLogger
from typing_extensions import override


class SilentLogger(DummyLogger):
    """A logger that writes nothing, and whose folder takes the files of a module.

    Args:
        folder: The folder, which a module finds as `trainer.log_dir`.
    """

    def __init__(self, folder: str | None) -> None:
        super().__init__()
        self._folder = folder

    @property
    @override
    def save_dir(self) -> str | None:
        return self._folder
