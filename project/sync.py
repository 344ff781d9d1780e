"""Deliver records and files that runs could not deliver because the MLflow store was unavailable or their process died.

python -m project.sync
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading mlflow")

from rich.console import Console

from project.engine.cli.command_parser import CommandParser
from project.engine.cli.errors import exit_on_bad_input
from project.engine.runtime.exit import exit_without_teardown
from project.engine.runtime.process import configure_process
from project.engine.tracking import store
from project.engine.tracking.recovery import close_without_spool, dead_spools, recover
from project.engine.tracking.secrets import redact


def main(argv: Sequence[str]) -> None:
    """Exit with 1 if some records remain, 2 if there is no store or it does not respond."""
    configure_process()
    CommandParser(prog="python -m project.sync", description="Deliver what is left of earlier runs.").parse_args(argv)
    console = Console(highlight=False)
    with exit_on_bad_input():
        client = store.connect_existing()
    delivered, kept = 0, 0
    for spool in dead_spools():
        if trouble := recover(client, spool):
            kept += 1
            console.print(f"run {spool.run_id}: kept in {spool.folder}; the store reports: {trouble}", soft_wrap=True)
        else:
            delivered += 1
            console.print(f"run {spool.run_id}: delivered", soft_wrap=True)
    console.print(f"{delivered} delivered, {kept} kept")
    if kept:
        console.print(
            f"the store is {redact(store.tracking_uri())}; MLFLOW_TRACKING_URI names another one", soft_wrap=True
        )
    with exit_on_bad_input():
        close_without_spool(client)
    sys.exit(1 if kept else 0)


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
