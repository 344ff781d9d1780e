"""The baseline of a run: a score that needs no training, with which the score of the model is compared."""

from collections.abc import Mapping

from project.engine.task import Baseline, Task
from project.engine.tracking.best_effort import best_effort
from project.engine.training.job import Job


def log_baseline(job: Job, scores: Mapping[str, float]) -> Baseline | None:
    """Compute the baseline on the split that scored the model, and log it as the tag `baseline`.

    Returns:
        The baseline, whose metric has its stage; None if the task or the data declares none, and on ranks other than
        the first.
    """
    stage = next(iter(scores), "").partition("/")[0]
    if not job.trainer.is_global_zero or not isinstance(job.model, Task):
        return None
    with best_effort(job.logger, "baseline", "the score has no baseline"):
        targets = job.data.all_targets(stage)
        found = None if targets is None else job.model.baseline(targets.cpu())
        if found is None or (metric := f"{stage}/{found.metric}") not in scores:
            return None
        if job.logger is not None:
            job.logger.set_tags({"baseline": f"{metric} {found.value:.4f} ({found.sentence})"})
        return found._replace(metric=metric)
    return None
