"""MLflow's UI on this project's store.

python -m project.ui
python -m project.ui --port 5001
"""

import os
import sys
from argparse import ArgumentParser
from socket import SO_REUSEADDR, SOL_SOCKET, socket

from project.engine.cli.errors import answered
from project.engine.tracking.store import check_has_database, connect, tracking_uri


def main() -> None:
    """Become `mlflow ui` on 127.0.0.1:5000; its own options come last. Exit with 2 when the port is taken."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", "-p", type=int, default=5000)
    parser.add_argument("--host", "-h", default="127.0.0.1")
    asked, _ = parser.parse_known_args()
    with answered(), socket() as probe:
        check_has_database(tracking_uri())
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind((asked.host, asked.port))
        except OSError as error:
            raise OSError(
                f"--port: cannot listen on {asked.host}:{asked.port} ({error.strerror}); give --port N"
            ) from error
        connect()  # says in a line what MLflow's server would in fifty
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking_uri()  # not an option, which any user of the machine could read
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", *sys.argv[1:]])


if __name__ == "__main__":
    main()
