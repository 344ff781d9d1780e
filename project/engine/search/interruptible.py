"""Imported first by the server that trials are forked from: Ctrl-C ends it while the sweep has not begun."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
