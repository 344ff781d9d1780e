"""The summary that the terminal shows at the end of a fit."""

from collections.abc import Iterator, Mapping

from lightning import Trainer
from rich.console import Console
from rich.markup import escape

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.cli.epoch_table import clock
from project.engine.runtime.callbacks import callbacks_of
from project.engine.task import Baseline
from project.engine.tracking.names import score_text
from project.engine.tracking.throughput import Throughput, rate_text
from project.engine.training.job import Job
from project.engine.training.next_commands import is_trial, next_commands
from project.engine.training.scoring import best_checkpoint

_MUCH_WAITING = 0.1
_LABEL_WIDTH = 19


def print_summary(job: Job, scores: Mapping[str, float], baseline: Baseline | None) -> None:
    """Print how good the model is, how long it took, where the results are, and the next commands.

    Paths, ids and commands are on lines of their own, so that they can be copied. Trials have no next commands.
    """
    console = Console(highlight=False)
    console.print()
    lines = [*_results(job, scores, baseline), *_speed(job)]
    width = max(_LABEL_WIDTH, *(len(label) + 2 for label, _ in lines))
    for label, text in lines:
        console.print(f"{label:<{width}}{text}", soft_wrap=True)
    run_id = job.logger.version if job.logger else None
    commands = {} if is_trial() else next_commands(job.cli, run_id)
    places = {"run": run_id or "not tracked", "checkpoint": best_checkpoint(job.trainer) or "none"}
    for label, text in (*places.items(), *commands.items()):
        console.print(f"[dim]{label}[/]\n  {escape(text)}", soft_wrap=True)


def _results(job: Job, scores: Mapping[str, float], baseline: Baseline | None) -> Iterator[tuple[str, str]]:
    """Yield labels and texts about the best checkpoint."""
    trainer = job.trainer
    if best := _best_epoch(trainer):
        yield "best epoch", escape(best)
    # The metrics that a model shows in the progress bar are its main ones.
    for name in [name for name in scores if name in trainer.progress_bar_metrics] or list(scores):
        compared = ""
        if baseline and baseline.metric == name:
            compared = f" ({score_text(baseline.value)} by {escape(baseline.sentence)})"
        yield name.replace("/", " "), f"[bold green]{score_text(scores[name])}[/]{compared}"
    if skipped := job.data.skipped:
        yield "left out", ", ".join(f"{count:,} damaged images of {split}" for split, count in skipped.items())


def _best_epoch(trainer: Trainer) -> str:
    checkpoint = RunCheckpoint.of(trainer)
    if checkpoint is None or checkpoint.best_epoch is None:
        return ""
    value = checkpoint.best_model_score
    score = "" if value is None else f" (best {checkpoint.monitor}: {score_text(value)})"
    return f"{checkpoint.best_epoch} of {max(checkpoint.best_epoch, trainer.current_epoch)}{score}"


def _speed(job: Job) -> Iterator[tuple[str, str]]:
    """Yield labels and texts about the time."""
    throughput = callbacks_of(job.trainer, Throughput)[0]
    if throughput.total.samples:  # A resumed run may only have to be tested.
        yield f"{throughput.unit} per second", rate_text(throughput.total.samples_per_second)
    if (waited := throughput.total.wait_fraction) > _MUCH_WAITING:
        yield "waited for data", f"[yellow]{waited:.0%}[/] of the time; {escape(throughput.advice)}"
    yield "duration", clock(job.seconds)
