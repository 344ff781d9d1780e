"""Predict image files with the best checkpoint of a run.

python -m project.predict latest photo.jpg
python -m project.predict best:digits DIR 'more/*.png' --top_k 3 --output predictions.parquet
find DIR -name '*.jpg' | python -m project.predict latest - --tta > predictions.csv
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch, lightning and mlflow")
    from project.engine.cli.run_check import check_run
    from project.engine.inference.options import parse_prediction

    check_run(parse_prediction(sys.argv[1:]).run)

from project.engine.inference.prediction_job import open_prediction
from project.engine.runtime.exit import exit_without_teardown


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 if files cannot be read or rows cannot be written, 130 or 143 if interrupted."""
    with open_prediction(argv) as job:
        table = job.run()
        job.write(table)
    if job.bad or job.lost:
        sys.exit(1)


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
