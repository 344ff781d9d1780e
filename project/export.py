"""Write the best checkpoint of a run as one file or folder that works without this project.

python -m project.export latest
python -m project.export best:digits --format onnx --output digits.onnx
python -m project.export RUN_ID --format pt2 --images DIR
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch, lightning and mlflow")
    from project.engine.cli.run_check import check_run
    from project.engine.inference.options import parse_export

    check_run(parse_export(sys.argv[1:]).run)

from project.engine.inference.export_job import open_export
from project.engine.runtime.exit import exit_without_teardown


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 if the export fails or differs from the model, 130 or 143 if interrupted."""
    with open_export(argv) as job:
        job.write()


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
