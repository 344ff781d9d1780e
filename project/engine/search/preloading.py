"""The server that trials are forked from, with the imports of a fit behind it."""

from collections.abc import Sequence
from multiprocessing import forkserver


def start_preloading(modules: Sequence[str]) -> None:
    """Start the server; it imports these modules while this process goes on."""
    forkserver.set_forkserver_preload(
        ["project.engine.search.interruptible", *modules, "project.engine.search.uninterrupted"]
    )
    forkserver.ensure_running()
