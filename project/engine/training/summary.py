"""The summary that the terminal shows at the end of a fit."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from project.engine.checkpoints import RunCheckpoint
from project.engine.tracking.throughput import Throughput
from project.engine.training.job import Job
from project.engine.training.next_commands import next_commands
from project.engine.training.scoring import best_checkpoint

_MUCH_WAITING = 0.1


def print_summary(job: Job, scores: Mapping[str, float]) -> None:
    """Print the scores, the speed, where the results are, and the next commands."""
    trainer, run_id = job.trainer, job.logger.version if job.logger else None
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    checkpoint = RunCheckpoint.of(trainer)
    epoch = checkpoint.best_epoch if checkpoint else None
    # The progress bar ends with the metrics of the last epoch, which is not always the best one.
    of = f" (epoch {epoch} of {max(epoch, trainer.current_epoch)})" if epoch else ""
    # The metrics that a model shows in the progress bar are its main ones.
    shown = [name for name in scores if name in trainer.progress_bar_metrics] or list(scores)
    rate = throughput.samples_per_second
    lines = {
        **{name.replace("/", " "): f"[bold green]{scores[name]:.4f}[/]{of}" for name in shown},
        f"{throughput.unit} per second": f"{rate:,.3g}" if rate < 10 else f"{rate:,.0f}",
    }
    if throughput.wait_fraction > _MUCH_WAITING:
        lines["waited for data"] = f"[yellow]{throughput.wait_fraction:.0%}[/] of the time; {escape(throughput.advice)}"
    if skipped := job.data.skipped:
        lines["left out"] = ", ".join(f"{count:,} damaged images of {split}" for split, count in skipped.items())
    lines |= {
        "run": run_id or "not tracked",
        "checkpoint": escape(best_checkpoint(trainer) or "none"),
        "": "",
        **{label: escape(command) for label, command in next_commands(job.cli, run_id).items()},
    }
    console = Console(highlight=False)
    width = max(17, *map(len, lines)) + 2
    for name, value in lines.items():
        console.print(f"{name:<{width}}{value}", soft_wrap=True)
