"""The summary that the terminal shows at the end of a fit."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from project.engine.tracking.throughput import Throughput
from project.engine.training.job import Job

_MUCH_WAITING = 0.1


def print_summary(job: Job, scores: Mapping[str, float]) -> None:
    """Print the scores, the speed, where the results are, and what to type next."""
    trainer, run_id = job.trainer, job.run_id
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    epoch = job.best_epoch()
    # The bar ends with the last epoch's metrics, which may be others.
    of = f" (epoch {epoch} of {max(epoch, trainer.current_epoch)})" if epoch else ""
    # What a model shows in the progress bar is what it is judged by.
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
        "checkpoint": escape(job.best_checkpoint or "none"),
        "": "",
        "look at it": "python -m project.ui",
    }
    if job.data_is_a_choice:
        lines["other data"] = f"python -m project.fit --data {'mnist' if job.data.name != 'mnist' else 'cifar10'}"
    if search := job.search_command():
        lines["search"] = escape(search)
    if run_id and 0 <= trainer.max_steps <= trainer.global_step:
        lines["train on"] = f"python -m project.fit --resume {run_id} --trainer.max_steps {2 * trainer.max_steps}"
    elif run_id and trainer.max_epochs:
        lines["train on"] = f"python -m project.fit --resume {run_id} --max_epochs {2 * trainer.max_epochs}"
    console = Console(highlight=False)
    width = max(17, *map(len, lines)) + 2
    for name, value in lines.items():
        console.print(f"{name:<{width}}{value}", soft_wrap=True)
