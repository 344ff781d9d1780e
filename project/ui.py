"""MLflow's UI on this project's store.

python -m project.ui
python -m project.ui --port 5001
"""

import os
import sys

from project.tracking.store import tracking_uri


def main() -> None:
    """Become `mlflow ui` on 127.0.0.1:5000; its own options come last."""
    store = ["--backend-store-uri", tracking_uri(), "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *store, *sys.argv[1:]])


if __name__ == "__main__":
    main()
