"""The check of RUN, the first argument of a command, before the command imports torch."""

from collections.abc import Sequence

from project.engine.cli.errors import exit_on_bad_input
from project.engine.runtime.process import configure_process
from project.engine.runtime.startup import is_first_process
from project.engine.tracking import store
from project.engine.tracking.recovery import recover_all
from project.engine.tracking.run_reference import find


def check_run(argv: Sequence[str]) -> None:
    """Look up the run that a command line begins with.

    Raises:
        SystemExit: 2 if there is no such run.
    """
    if not argv or argv[0].startswith("-") or not is_first_process():
        return
    configure_process()
    with exit_on_bad_input():
        client = store.connect_existing(argv[0])
        recover_all(client)
        find(client, argv[0])
