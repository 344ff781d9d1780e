"""A PyTorch Lightning project with parallel training, asynchronous loading, and tracking in MLflow."""

import os
import signal
import sys

from project.engine.runtime.stop_signals import exit_code, stop_signals

if sys.argv[:1] == ["-m"]:  # The process of a command. `begin_command` replaces these handlers.
    for _signum in stop_signals():
        signal.signal(_signum, lambda signum, _: (os.write(2, b"interrupted\n"), os._exit(exit_code(signum))))

if sys.platform == "linux" and "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads spin for this time between two operations before they sleep. On two cores, no spinning slows a CNN
    # by 10 % (a small one by 40 %); libgomp's default halves the speed of two trainings that share the cores.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # some 30 microseconds

if os.path.expanduser("~") == "~":  # noqa: PTH111  # pathlib raises for it
    # HOME is not set, and the user has no entry in the user database, as in a container that runs under any user id.
    # MLflow asks for the home when it is imported, and for the user's name when a run is created.
    os.environ["HOME"] = "/nonexistent"
    os.environ.setdefault("USER", str(os.getuid()))
