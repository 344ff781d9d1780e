"""MLflow's UI on this project's store.

python -m project.ui
python -m project.ui --port 5001
"""

import os
import sys

from project.tracking.store import tracking_uri


def main() -> None:
    """Become `mlflow ui` on 127.0.0.1:5000; its own options come last."""
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking_uri()  # not an option, which any user of the machine could read
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", *sys.argv[1:]])


if __name__ == "__main__":
    main()
