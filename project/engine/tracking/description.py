"""Descriptions in Markdown, which MLflow shows on the pages of runs, experiments, studies and models."""

import shlex
from collections.abc import Iterable, Mapping, Sequence

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from project.engine.tracking.names import score_text, short

_LONGEST_CELL, _LONGEST_LINE = 300, 100
_GAP = "&emsp;"
"""A space between columns, which MLflow's pages draw without any."""
TAG = MLFLOW_RUN_NOTE
"""The tag of a run, an experiment or a logged model that holds its description."""


def describe_fit(
    what: str, data: Sequence[str], scores: Mapping[str, float], commands: Mapping[str, str], ending: str = ""
) -> str:
    """Describe a run: what was trained on what, the result, and the next commands.

    MLflow folds a description after a few lines, so the main score is in the second one.

    Args:
        what: The net, the data and the devices, in one sentence.
        data: Lines about the data.
        scores: Metrics of the best checkpoint, the main ones first; empty before there is one.
        commands: Commands by label.
        ending: How far the training came, in one sentence.
    """
    main = next((f"**{name} {_cell(value)}**." for name, value in scores.items()), "There is no result yet.")
    table = _table(("metric", "value"), scores.items()) if scores else ""
    return _paragraphs(what, f"{main} {ending}".strip(), table, *data, _shell(commands))


def describe_experiment(data: Sequence[str], monitor: str, commands: Mapping[str, str]) -> str:
    """Describe an experiment: its data, the metric that selects the best checkpoints, and commands that add runs."""
    selected = f"The best checkpoint of a run is selected by `{monitor}`." if monitor else ""
    return _paragraphs(*data, selected, _shell(commands))


def describe_model(
    what: str,
    data: Sequence[str],
    scores: Mapping[str, float],
    stored: Mapping[str, str],
    commands: Mapping[str, str],
    serving: Sequence[str] = (),
) -> str:
    """Describe a logged model: its data, scores, what is stored with it, and commands.

    Args:
        what: See `describe_fit`.
        data: See `describe_fit`.
        scores: See `describe_fit`.
        commands: See `describe_fit`.
        stored: What is stored with it, such as classes.
        serving: Lines of a shell that serve the exported model and call it.
    """
    calls = "\n".join(["After `project.export`:", "", "```bash", *serving, "```"]) if serving else ""
    return _paragraphs(
        what, *data, _table(("metric", "value"), scores.items()), _table(("model", ""), stored.items()),
        _shell(commands), calls,
    )  # fmt: skip


def describe_study(what: str, counts: Mapping[str, int], result: str, commands: Mapping[str, str], trials: str) -> str:
    """Describe a study: its metrics, the number of trials in each state, its result, commands, and all trials.

    The table is last, because the store may shorten a long description.
    """
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return _paragraphs(what, f"Trials: {states or 'none yet'}. {result}", _shell(commands), trials)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = ([_cell(first), *(f"{_GAP}{_cell(value)}" for value in rest)] for first, *rest in rows)
    return "\n".join(map(markdown_row, [columns, ["---"] * len(columns), *cells]))


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table; a cell with lines becomes one line."""
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _cell(value: object) -> str:
    text = score_text(value) if isinstance(value, float) else short(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"


def _wrapped(command: str) -> str:
    """Break a long command before its options, because the page of a run would become as wide as the command."""
    lines = [""]
    for word in shlex.split(command):
        if word.startswith("-") and len(lines[-1]) + len(word) > _LONGEST_LINE:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{shlex.quote(word)}"
    return " \\\n  ".join(lines)


def _shell(commands: Mapping[str, str]) -> str:
    """Return a block of commands, each after a comment with its label, so that it can be pasted into a shell."""
    lines = [line for label, command in commands.items() for line in (f"# {label}", _wrapped(command))]
    return "\n".join(["```bash", *lines, "```"]) if lines else ""
