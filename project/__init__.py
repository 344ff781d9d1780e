"""A PyTorch Lightning project: parallel, asynchronous, and tracked in MLflow."""

import os
import signal
import sys

# Threads of OpenMP spin while they wait: two trainings on the same cores would then hardly move.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if sys.argv[:1] == ["-m"]:
    # A command is starting: until it answers signals itself, Ctrl-C ends it, and no import says where it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
