"""The table of an evaluation in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from project.engine.evaluation import CONFIDENCE, Evaluation
from project.engine.tracking.names import score_text

_MOST_ROWS = 20


def print_scores(metrics: Mapping[str, float], added: Evaluation, split: str, prefix: str, samples: int | None) -> None:
    """Print all scores with their intervals, and the tables that are short.

    Args:
        metrics: Metrics that the model logs, by name.
        added: What its task adds.
        split: Name of the split.
        prefix: Start of the names in the run.
        samples: Number of samples; None if unknown.
    """
    console = Console(highlight=False)
    count = f"{samples:,} samples" if samples else "all samples"
    table = Table(
        "score", "value", f"{CONFIDENCE:.0%} interval", title=f"{prefix}{split}: {count}", title_justify="left"
    )
    scores = {name.removeprefix(f"{split}/"): value for name, value in metrics.items()} | dict(added.scores)
    for name, value in scores.items():
        ends = added.intervals.get(name)
        table.add_row(
            escape(name), score_text(value), f"{score_text(ends.low)} to {score_text(ends.high)}" if ends else ""
        )
    console.print(table)
    for name, columns in added.tables.items():
        rows = list(zip(*columns.values(), strict=True))
        if len(rows) <= _MOST_ROWS:
            table = Table(*columns, title=name.replace("_", " "), title_justify="left")
            for row in rows:
                table.add_row(*map(_text, row))
            console.print(table)
    if added.absent:
        console.print(
            f"the evaluation lacks what the model does not declare: {', '.join(added.absent)}", soft_wrap=True
        )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return score_text(value) if isinstance(value, float) else escape(str(value))
