"""Compare runs: what differs between them, and whether one is significantly better than another.

python -m project.compare RUN_ID latest
python -m project.compare best latest models:/digits@champion --split val
python -m project.compare RUN_ID latest --output comparison.md --output comparison.csv --output curves.png
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading mlflow")

from project.engine.cli.command_parser import CommandParser, output_file
from project.engine.cli.errors import exit_on_bad_input
from project.engine.comparison.job import compare, write
from project.engine.comparison.report import print_comparison
from project.engine.runtime.exit import exit_without_teardown
from project.engine.runtime.process import configure_process
from project.engine.tracking import store
from project.engine.tracking.run_reference import RUN_HELP


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input."""
    configure_process()
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
        "--output", metavar="FILE", type=output_file((".md", ".csv", ".png")), action="append", default=[],
        help="write a report (.md, with the learning curves as a picture beside it), a table (.csv), or the learning "
        "curves (.png); repeat it for several files",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error(f"got the run {options.runs[0]} alone; give two or more")
    with exit_on_bad_input():
        client = store.connect_existing(options.runs[0])
        compared = compare(client, options.runs, options.split)
        print_comparison(compared)
        write(client, compared, options.output)


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
