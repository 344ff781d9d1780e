"""Train, validate and test the best checkpoint, and record everything in one MLflow run.

python -m project.fit
python -m project.fit --data mnist --model resnet18 --max_epochs 3
python -m project.fit --strategy ddp --devices 2 --precision bf16-mixed
python -m project.fit --resume RUN_ID --max_epochs 30
python -m project.fit --rerun RUN_ID
python -m project.fit --register NAME
"""

import sys
from collections.abc import Sequence

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch, lightning and mlflow")
    from project.engine.cli.known_options import answer_early

    answer_early(sys.argv[1:])

from lightning import Callback

from project.engine.runtime.exit import exit_without_teardown
from project.engine.tracking.best_effort import best_effort
from project.engine.training.describing import describe_result
from project.engine.training.job import open_job
from project.engine.training.scoring import log_baseline, log_model, score
from project.engine.training.summary import print_summary


def main(argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
    """Exit with 2 on bad input, 1 if training fails, 130 or 143 if interrupted."""
    with open_job(argv, callbacks) as job:
        job.trainer.fit(job.model, job.datamodule, ckpt_path=job.resume_from)
        scores = score(job)
        baseline = log_baseline(job, scores)
        describe_result(job.cli, job.logger, scores, baseline)
        log_model(job, scores)
    if job.trainer.is_global_zero:
        with best_effort(None, "summary", "the summary cannot be printed"):
            print_summary(job, scores, baseline)
        if (name := job.cli.command.register) and job.logger and job.logger.version:
            from project.engine.inference.registration import ONE_DEVICE, register_trained  # It imports pyarrow.

            register_trained(job.logger.version, name, ONE_DEVICE if job.trainer.world_size > 1 else ())


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
