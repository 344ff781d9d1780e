"""The check of RUN, the first argument of a command, before the command imports torch."""

import os

from project.engine.cli.errors import exit_on_bad_input
from project.engine.runtime.process import configure_process
from project.engine.runtime.startup import is_first_process
from project.engine.tracking import store
from project.engine.tracking.recovery import RECOVERED, recover_all
from project.engine.tracking.run_reference import find


def check_run(reference: str) -> None:
    """Look up a run, in the first process.

    Args:
        reference: An id or another name of the run.

    Raises:
        SystemExit: 2 if there is no such run.
    """
    if not is_first_process():
        return
    configure_process()
    with exit_on_bad_input():
        client = store.connect_existing(reference)
        recover_all(client)
        os.environ[RECOVERED] = "by the check"
        find(client, reference)
