"""The scores of the best checkpoint, the baseline that they are compared with, and its served model."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.task import Baseline, Task
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.names import model_name, score_text
from project.engine.tracking.silent import SilentLogger
from project.engine.training.describing import model_tags
from project.engine.training.job import Job


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the path of the best checkpoint; without a monitored metric, of the last one."""
    checkpoint = RunCheckpoint.of(trainer)
    return checkpoint.best_model_path or checkpoint.last_if_unmonitored() if checkpoint else None


def score(job: Job) -> Mapping[str, float]:
    """Return the metrics of the best checkpoint on the test split, or on the validation split without a test split.

    The metrics of the validation split are not logged, because `val/*` has a point for each validation of the training
    only. Training has logged them as `best/val/*`.
    """
    trainer, model, data = job.trainer, job.model, job.datamodule
    best = best_checkpoint(trainer)
    if job.data.has_test and trainer.limit_test_batches and is_overridden("test_step", model):
        with job.logger.scoring(logged=True) if job.logger else nullcontext():
            return merged(trainer.test(model, data, ckpt_path=best, verbose=False))
    has_val = is_overridden("val_dataloader", data)
    if not (has_val and trainer.limit_val_batches and is_overridden("validation_step", model)):
        return {}
    loggers, folder = trainer.loggers, trainer.log_dir
    # A module may call the methods of the user's logger.
    trainer.loggers = [one if one is job.logger else SilentLogger(folder) for one in loggers]
    with job.logger.scoring(logged=False) if job.logger else nullcontext():
        try:
            return merged(trainer.validate(model, data, ckpt_path=best, verbose=False))
        finally:
            trainer.loggers = loggers


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
            job.logger.set_tags({"baseline": f"{metric} {score_text(found.value)} ({found.sentence})"})
        return found._replace(metric=metric)
    return None


def log_model(job: Job, scores: Mapping[str, float]) -> None:
    """Log the model of the best checkpoint, as MLflow serves it. A model that cannot be served has checkpoints only."""
    logger, best = job.logger, best_checkpoint(job.trainer)
    if logger is None or best is None or not isinstance(job.model, Task):
        return
    from project.engine.training.serving import save_served_model  # It imports the large parts of MLflow, and pandas.

    folder: Path | None = None
    with best_effort(logger, "model", "the run has no model to serve, only its checkpoints"):
        folder = logger.artifact_file(model_name(job.data.name, job.cli.net_name))
        if folder is None:  # not the first rank
            return
        trained, examples = _trained_model(job, best), job.data.examples()
        signature = save_served_model(folder, trained, examples[0], job.data.decoding()) if examples else None
        if signature is not None:
            stored = trained.serving_metadata()
            logger.log_saved_model(folder.name, model_tags(job.cli, logger.version, scores, signature, stored))
        return
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _trained_model(job: Job, checkpoint: str) -> Task:
    """Return a new model on the CPU, without the changes of a strategy, with the weights of a checkpoint."""
    model: Task = job.cli.instantiate().model
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return model


def merged(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of all dataloaders, whose names differ."""
    return {name: value for each in scores for name, value in each.items()}
