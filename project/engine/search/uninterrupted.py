"""Imported last by the server that trials are forked from: from here on signals of the terminal are for the sweep."""

import signal

for _name in ("SIGINT", "SIGHUP"):
    if hasattr(signal, _name):
        signal.signal(getattr(signal, _name), signal.SIG_IGN)
