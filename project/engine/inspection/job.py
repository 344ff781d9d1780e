"""The data of a command line, without a model and a trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import Namespace
from lightning import LightningDataModule
from typing_extensions import override

from project.engine.cli.command_line import CommandLine
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.fit_cli import FitCLI
from project.engine.data import DescribedDataModule, described
from project.engine.inspection.options import parse_description
from project.engine.runtime.startup import update_activity
from project.engine.training.stop import interruptible_command


class DataCLI(FitCLI):
    """The data of a command line; model and trainer are parsed, but not built.

    Raises:
        ValueError, OSError: The input is at fault.
    """

    def __init__(self, command: CommandLine) -> None:
        super().__init__(command, lambda *_: [])

    @override
    def build(self) -> None:
        """Make the data. Training images are not cropped at random, so that they can be compared with other splits."""
        settings = Namespace(data=self.config.data)  # type: ignore[no-untyped-call]
        crop = "data.init_args.augmentation.random_resized_crop"
        if settings.get(crop) is not None:
            settings[crop] = None
        makers = [(self._make_data, LightningDataModule, True)]
        self.datamodule = self.parser.instantiate(settings, instantiators=makers).data
        self.data = described(self.datamodule)


@contextmanager
def open_data(argv: Sequence[str]) -> Iterator[DescribedDataModule]:
    """Open the data of a command line for a block of code.

    Yields:
        The data, after `setup`.

    Raises:
        SystemExit: 2 if the input is bad, also within the block; 130 or 143 if this process is interrupted.
    """
    with interruptible_command("the description is not complete"), exit_on_bad_input():
        command = parse_description(argv)
        update_activity("reading the data")
        data = DataCLI(command).data
        data.prepare_data()
        data.setup("fit")
        yield data
