"""The command line of `project.describe`."""

from collections.abc import Sequence

from project.engine.cli.command_line import CommandLine
from project.engine.cli.command_parser import CommandParser
from project.engine.cli.nearest import question

_OPTIONS = "--data NAME, --data.*, --experiment NAME, --config FILE"
_NAMES = ("data", "experiment", "config")


def parse_description(argv: Sequence[str]) -> CommandLine:
    """Return the options that choose the data.

    Raises:
        SystemExit: 2 if an option is malformed, or does not choose data; 0 after `--help`.
        ValueError: An option lacks its value.
    """
    parser = CommandParser(
        prog="python -m project.describe",
        usage="%(prog)s --data NAME [--data.SETTING VALUE]...",
        description=(
            "Show what data contain: the samples of each split, the sizes of files, and samples that occur more than "
            "once. A sample of val or test that is also in train makes the scores too high. Two images are the same if "
            f"their pixels are equal after resizing to --data.image_size. Other options: {_OPTIONS}, as in "
            "project.fit. Exit codes: 0 done, 2 bad input, 130 Ctrl-C, 143 SIGTERM."
        ),
        allow_abbrev=False,
    )
    _, options = parser.parse_known_args(argv)
    for option in options:
        name = option.partition("=")[0]
        if name.startswith("--") and name[2:] not in _NAMES and not name.startswith("--data."):
            hint = question(name[2:], _NAMES)
            parser.error(f"{name}{hint}: only data are described; the options are {_OPTIONS}")
    return CommandLine.parse(options, _NAMES)
