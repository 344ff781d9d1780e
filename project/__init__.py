"""A PyTorch Lightning project: parallel, asynchronous, and tracked in MLflow."""

import os
import signal
import sys

if sys.platform == "linux" and "OMP_WAIT_POLICY" not in os.environ:
    # How long torch's threads spin between two operations, before they sleep. Not at all costs a tenth of a CNN's speed
    # on two cores and two fifths of a small one's; as long as by default, half of it when trainings share the cores.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # some 30 microseconds

if os.path.expanduser("~") == "~":  # noqa: PTH111  # pathlib raises for it
    # HOME is not set, and the user has no entry in the user database, as in a container that runs under any user id.
    # MLflow asks for the home when it is imported, and for the user's name when a run is created.
    os.environ["HOME"] = "/nonexistent"
    os.environ.setdefault("USER", str(os.getuid()))

if sys.argv[:1] == ["-m"]:
    # A command is starting: until it answers signals itself, Ctrl-C ends it, and no import says where it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
