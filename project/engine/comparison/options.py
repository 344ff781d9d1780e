"""The command line of `project.compare`."""

from argparse import Namespace
from collections.abc import Sequence

from project.engine.cli.command_parser import CommandParser, output_file
from project.engine.tracking.run_reference import RUN_HELP

SUFFIXES = (".md", ".csv", ".png")


def parse_comparison(argv: Sequence[str]) -> Namespace:
    """Parse the runs, the split and the outputs.

    Raises:
        SystemExit: 2 if an option is malformed; 0 after `--help`.
    """
    parser = CommandParser(
        prog="python -m project.compare",
        usage="%(prog)s RUN RUN... [--split val|test] [--output FILE]...",
        description=(
            "Compare runs: what differs in settings, code, packages, data and devices; their scores side by side; the "
            "better one is marked if a paired test on the stored predictions of project.evaluate finds that the "
            "difference is not noise (McNemar's exact test, else a bootstrap). Exit codes: 0 done, 2 bad input."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help=f"two or more: {RUN_HELP}")
    parser.add_argument(
        "--split", choices=["val", "test"], help="the evaluated split; by default test, or val if there is no test"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=output_file(SUFFIXES), action="append", default=[],
        help="write a report (.md, with the learning curves as a picture beside it), a table (.csv), or the learning "
        "curves (.png); repeat it for several files",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error(f"got the run {options.runs[0]} alone; give two or more")
    return options
