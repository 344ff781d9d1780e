"""List the checkpoints, caches and spools that nothing needs, with their sizes, and remove them with --remove.

python -m project.clean
python -m project.clean --remove
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading mlflow")

from rich.console import Console
from rich.filesize import decimal

from project.engine.cli.command_parser import CommandParser
from project.engine.cli.errors import exit_on_bad_input
from project.engine.runtime.exit import exit_without_teardown
from project.engine.runtime.process import configure_process
from project.engine.tracking import store
from project.engine.tracking.recovery import recover_all
from project.engine.tracking.unneeded import find_unneeded, remove


def main(argv: Sequence[str]) -> None:
    """Exit with 1 if something cannot be removed, 2 if there is no store or it does not respond."""
    configure_process()
    parser = CommandParser(
        prog="python -m project.clean",
        description=(
            "List what nothing needs: checkpoints of deleted runs and of trials that were not the best, caches of "
            "images that are gone, empty spools. Running, resumable and registered runs keep everything. Exit codes: "
            "0 done, 1 something cannot be removed, 2 bad input."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--remove", action="store_true", help="remove it; without this option, it is only listed")
    removes, console = parser.parse_args(argv).remove, Console(highlight=False, markup=False)
    with exit_on_bad_input():
        client = store.connect_existing()
        recover_all(client)
        found = find_unneeded(client)
    freed, failed = 0, 0
    for one in found:
        try:
            if removes:
                remove(one)
            freed += one.size
            console.print(f"{decimal(one.size):>9}  {one.path}: {one.reason}", soft_wrap=True)
        except OSError as error:
            failed += 1
            console.print(f"    kept  {one.path}: it cannot be removed ({error})", soft_wrap=True)
    end = "removed" if removes else "can be removed with: python -m project.clean --remove"
    console.print(f"{decimal(freed)} {end}" if found else "nothing to remove", soft_wrap=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
