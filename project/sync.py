"""Deliver what runs could not: while their store was away, or after their process died.

python -m project.sync
"""

import sys

from rich.console import Console

from project.errors import answered
from project.terminal import quiet
from project.tracking import store
from project.tracking.recovery import dead_spools, recover


def main() -> None:
    """Exit with 1 when the store did not take everything, 2 when it does not answer at all."""
    quiet()
    console = Console(highlight=False)
    with answered():
        client = store.connect()
    delivered, kept = 0, 0
    for spool in dead_spools():
        run_id = spool.run_id
        if recover(client, spool):
            delivered += 1
            console.print(f"run {run_id}: delivered", soft_wrap=True)
        else:
            kept += 1
            console.print(f"run {run_id}: the store stopped answering; kept in {spool.folder}", soft_wrap=True)
    console.print(f"{delivered} delivered, {kept} kept")
    sys.exit(1 if kept else 0)


if __name__ == "__main__":
    main()
