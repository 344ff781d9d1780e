"""A comparison as tables: in the terminal, as Markdown, and as CSV."""

import csv
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from project.engine.comparison.paired import SIGNIFICANT
from project.engine.comparison.runs import ComparedRun
from project.engine.comparison.scores import Score
from project.engine.evaluation import RESAMPLES, SEED
from project.engine.tracking.description import markdown_row
from project.engine.tracking.names import score_text
from project.engine.tracking.recorded import ABSENT, Difference

_LONGEST = 60
_MARK = "★"


class Comparison(NamedTuple):
    """A comparison.

    Attributes:
        runs: The compared runs.
        split: The split of the evaluations.
        differences: What differs.
        scores: The scores.
        notes: Which runs are not tested, and why.
        page: Address of MLflow's page that compares the runs.
    """

    runs: Sequence[ComparedRun]
    split: str
    differences: Sequence[Difference]
    scores: Sequence[Score]
    notes: Sequence[str]
    page: str

    @property
    def same(self) -> str:
        """A sentence that names what does not differ; empty if everything does."""
        kinds = self.runs[0].recorded
        unknown = [kind for kind in kinds if not any(run.recorded[kind] for run in self.runs)]
        differing = {difference.kind for difference in self.differences}
        equal = [kind for kind in kinds if kind not in differing and kind not in unknown]
        parts = [f"The same: {', '.join(equal)}."] if equal else []
        return " ".join([*parts, *([f"Not recorded: {', '.join(unknown)}."] if unknown else [])])

    @property
    def explanation(self) -> str:
        """How the marks are made; empty if nothing was tested."""
        if not any(score.test for score in self.scores):
            return ""
        return (
            f"{_MARK} is better than every other tested run (p < {SIGNIFICANT}); p is the two-sided p-value of the "
            "difference to the best run on the same samples, corrected by Holm's method for each score; the bootstrap "
            f"has at most {RESAMPLES:,} paired resamples, with seed {SEED}."
        )


def print_comparison(compared: Comparison) -> None:
    """Print the runs, what differs, the scores, and the address of MLflow's page."""
    console = Console(highlight=False)
    if not console.is_terminal:  # Rich assumes 80 columns, and would break names.
        console.width = 1000
    for run in compared.runs:
        why = f" ({run.reason})" if run.reason else ""
        console.print(escape(f"{run.label}  {run.run.info.run_name}  {run.run.info.status}{why}"), soft_wrap=True)
    for title, columns, rows in _tables(compared):
        table = Table(
            *(Column(escape(column), overflow="fold") for column in columns), title=title, title_justify="left"
        )
        for row in rows:
            table.add_row(*(escape(cell if len(cell) <= _LONGEST else f"{cell[:_LONGEST]}…") for cell in row))
        console.print(table)
    for line in filter(None, (compared.same, compared.explanation, *compared.notes)):
        console.print(escape(line), soft_wrap=True)
    console.print(f"\nin MLflow, which python -m project.ui shows:\n{escape(compared.page)}", soft_wrap=True)


def write_markdown(compared: Comparison, to: Path, picture: str) -> None:
    """Write a page with the tables, and with a picture in the same folder."""
    lines = ["# Comparison of runs", ""]
    for run in compared.runs:
        lines.append(f"- `{run.label}` {run.run.info.run_name}, {run.run.info.status}, `{run.id}`")
    for title, columns, rows in _tables(compared):
        lines += [
            "",
            f"## {title.capitalize()}",
            "",
            markdown_row(columns),
            markdown_row(["---"] * len(columns)),
            *map(markdown_row, rows),
        ]
    texts = (compared.same, compared.explanation, *compared.notes, f"![Learning curves]({picture})")
    lines += [part for text in texts if text for part in ("", text)]
    to.write_text("\n".join([*lines, "", f"<{compared.page}>", ""]), encoding="utf-8")


def write_csv(compared: Comparison, to: Path) -> None:
    """Write differences and scores as one table, with all digits."""
    ids = [run.id for run in compared.runs]
    with to.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "name", *ids, "test", *(f"p {one}" for one in ids), "better"])
        for kind, name, values in compared.differences:
            writer.writerow([kind, name, *values, "", *[""] * len(ids), ""])
        for score in compared.scores:
            p_values = score.p_values or [None] * len(ids)
            better = "" if score.better is None else ids[score.better]
            writer.writerow(
                ["score", score.name, *map(_exact, score.values), score.test, *map(_exact, p_values), better]
            )


def _tables(compared: Comparison) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, columns and rows of each table."""
    labels = [run.label for run in compared.runs]
    if compared.differences:
        rows = [[kind, name, *values] for kind, name, values in compared.differences]
        yield "differences", ["", "name", *labels], rows
    if compared.scores:
        count = 1 + len(labels) + any(score.test for score in compared.scores)
        rows = [[score.name, *_cells(score), score.test][:count] for score in compared.scores]
        yield "scores", ["score", *labels, "test"][:count], rows


def _cells(score: Score) -> Iterator[str]:
    for place, value in enumerate(score.values):
        p_value = score.p_values[place] if score.p_values else None
        mark = f" {_MARK}" if score.better == place else f" (p {_p_text(p_value)})" if p_value is not None else ""
        yield _text(value) + mark


def _text(value: float | None) -> str:
    if value is None or isnan(value):
        return ABSENT
    return f"{value:,.1f}" if abs(value) >= 100 else score_text(value)


def _p_text(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.0e}"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))
