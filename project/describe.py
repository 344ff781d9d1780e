"""Show what data contain before a training: counts, sizes of files, and images that occur twice or in two splits.

python -m project.describe --data cifar10
python -m project.describe --data image_folder --data.root DIR
python -m project.describe --data image_folder --data.root DIR --data.image_size 128 > report.txt
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch and lightning")
    from project.engine.cli.errors import exit_on_bad_input
    from project.engine.cli.known_options import check_early
    from project.engine.inspection.options import parse_description

    with exit_on_bad_input():
        check_early(parse_description(sys.argv[1:]))

from project.engine.inspection.job import open_data
from project.engine.inspection.report import print_contents, print_copies
from project.engine.inspection.samples import find_copies
from project.engine.runtime.exit import exit_without_teardown


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 130 or 143 if interrupted."""
    with open_data(argv) as data:
        print_contents(data)
        print_copies(data, find_copies(data))


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
