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

from project.engine.cli.errors import exit_on_bad_input
from project.engine.comparison.job import compare, write
from project.engine.comparison.options import parse_comparison
from project.engine.comparison.report import print_comparison
from project.engine.runtime.exit import exit_without_teardown
from project.engine.runtime.process import configure_process
from project.engine.tracking import store


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input."""
    configure_process()
    options = parse_comparison(argv)
    with exit_on_bad_input():
        client = store.connect_existing(options.runs[0])
        compared = compare(client, options.runs, options.split)
        print_comparison(compared)
        for path in options.output:
            write(client, compared, path)


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
