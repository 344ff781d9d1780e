"""The MLflow UI on this project's tracking store.

python -m project.ui
python -m project.ui --port 5001
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from socket import SO_REUSEADDR, SOL_SOCKET, socket

from project.engine.cli.errors import exit_on_bad_input
from project.engine.tracking.store import check_has_database, connect, tracking_uri


def main(argv: Sequence[str]) -> None:
    """Replace this process by `mlflow ui` on 127.0.0.1:5000, with any of its options. Exit with 2 on bad input."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", "-p", type=int, default=5000)
    parser.add_argument("--host", "-h", default="127.0.0.1")
    options, _ = parser.parse_known_args(argv)
    if "--help" not in argv:
        _check(options.host, options.port)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking_uri()  # Any user of the machine could read an option.
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", *argv])


def _check(host: str, port: int) -> None:
    """Exit with 2 if the store does not respond, or the port is in use."""
    with exit_on_bad_input(), socket() as probe:
        check_has_database(tracking_uri())
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:  # OverflowError: the port is out of range
            reason = error.strerror if isinstance(error, OSError) else "it must be from 1 to 65535"
            raise OSError(f"--port: cannot listen on {host}:{port} ({reason}); give --port N") from error
        connect()  # It reports in one line what MLflow's server reports in fifty.


if __name__ == "__main__":
    main(sys.argv[1:])
