"""MLflow's UI on this project's store.

python -m project.ui
python -m project.ui --port 5001
"""

import subprocess
import sys

from project.tracking.store import tracking_uri


def main() -> None:
    """Serve on 127.0.0.1:5000 until Ctrl-C; options are those of `mlflow ui` and come last."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        tracking_uri(),
        "--host",
        "127.0.0.1",
    ]
    try:
        sys.exit(subprocess.run([*command, *sys.argv[1:]], check=False).returncode)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
