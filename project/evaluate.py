"""Score the best checkpoint of a run again, on its own data or other data, and add the scores to the run.

python -m project.evaluate latest
python -m project.evaluate best:digits --split val
python -m project.evaluate RUN_ID --register NAME
python -m project.evaluate RUN_ID --data image_folder --data.root DIR --devices 1 --precision bf16-mixed
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import show_activity

if __name__ == "__main__":
    show_activity("evaluate", "loading torch, lightning and mlflow")
    from project.engine.cli.run_check import check_run
    from project.engine.inference.evaluation_options import parse_evaluation

    parse_evaluation(sys.argv[1:])
    check_run(sys.argv[1:])

from project.engine.inference.evaluation_job import open_evaluation
from project.engine.inference.report import print_scores
from project.engine.runtime.exit import exit_without_teardown


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 if the evaluation fails, 130 or 143 if interrupted."""
    with open_evaluation(argv) as job:
        metrics, added = job.score()
        if job.trainer.is_global_zero:
            print_scores(metrics, added, job.split, job.prefix, job.samples)
        job.store(added)
        job.register()


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
