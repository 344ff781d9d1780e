"""Score the best checkpoint of a run again, on its own data or other data, and add the scores to the run.

python -m project.evaluate latest
python -m project.evaluate best:digits --split val
python -m project.evaluate RUN_ID --register NAME
python -m project.evaluate RUN_ID --data image_folder --data.root DIR --devices 1 --precision bf16-mixed
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch, lightning and mlflow")
    from project.engine.cli.run_check import check_run
    from project.engine.inference.options import parse_evaluation

    check_run(parse_evaluation(sys.argv[1:])[0].run)

from project.engine.inference.evaluation_job import open_evaluation
from project.engine.runtime.exit import exit_without_teardown


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 if the evaluation fails, 130 or 143 if interrupted."""
    with open_evaluation(argv) as job:
        job.complete()


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
