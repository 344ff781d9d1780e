"""The results of the cells: JSON lines, a table for the terminal, a table for a page, and a figure."""

import math
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.concurrency.cells import Cell
from benchmarks.concurrency.measure import IMAGES, MEMORY, TIME, UNITS, WAIT
from benchmarks.lines import print_line, spread
from project.engine.runtime.devices import usable_cores

Round = Mapping[str, Mapping[str, float]]
"""The measurements of each cell, by the names of the cell and of the measurement; NaN for what was not reached."""

BEGIN, END = "<!-- figures: python -m benchmarks.concurrency --page -->", "<!-- end of figures -->"
_DIGITS = {IMAGES: 0, WAIT: 1, MEMORY: 0, TIME: 1}
_COLUMNS = ("cell", "images/s", "of peer", "data wait, %", "peak memory, MiB", "s to the accuracy", "gain")


def values(rounds: Sequence[Round], cell: str, measure: str) -> list[float]:
    """Return a measurement of each round, without those that were not reached."""
    return [value for one in rounds if not math.isnan(value := one[cell][measure])]


def relative(rounds: Sequence[Round], cell: Cell, measure: str) -> list[float]:
    """Return a measurement relative to that of the peer in the same round, for each round that has both."""
    pairs = [(one[cell.name][measure], one[cell.peer][measure]) for one in rounds] if cell.peer else []
    return [ours / theirs for ours, theirs in pairs if theirs and not math.isnan(ours / theirs)]


def print_figures(cells: Sequence[Cell], rounds: Sequence[Round]) -> None:
    """Print a line for each measurement of each cell that at least one round has."""
    for cell in cells:
        for measure, unit in UNITS.items():
            peers = [one[cell.peer][measure] for one in rounds] if cell.peer else []
            print_line(
                f"{cell.name}: {measure}", [one[cell.name][measure] for one in rounds], unit,
                f"{cell.peer}: {measure}" if cell.peer else None, peers, more_is_better=measure == IMAGES,
            )  # fmt: skip


def rows(cells: Sequence[Cell], rounds: Sequence[Round]) -> Iterator[list[str]]:
    """Yield the row of each cell, in the order of `_COLUMNS`."""
    for cell in cells:
        measured = {name: spread(values(rounds, cell.name, name), digits) for name, digits in _DIGITS.items()}
        speed = spread(relative(rounds, cell, IMAGES), 2) if cell.peer else ""
        yield [cell.name, measured.pop(IMAGES), speed, *measured.values(), sentence(cell, rounds)]


def sentence(cell: Cell, rounds: Sequence[Round]) -> str:
    """Return what a cell gained in these rounds, and when it is useful."""
    speed, time = (relative(rounds, cell, measure) for measure in (IMAGES, TIME))
    if not speed:
        return cell.sentence
    gain = f"{statistics.median(speed) - 1:+.0%} images/s"
    if time:
        gain += f", {statistics.median(time) - 1:+.0%} time"
    if min(speed) <= 1 <= max(speed) and len(speed) > 1:
        gain += " (within the spread)"
    return f"{gain}. {cell.sentence}"


def table(cells: Sequence[Cell], rounds: Sequence[Round], title: str) -> Table:
    """Return the table for the terminal."""
    made = Table(*_COLUMNS[:-1], title=title)
    for row in rows(cells, rounds):
        made.add_row(*row[:-1])
    return made


def markdown(cells: Sequence[Cell], rounds: Sequence[Round], about: str, figure: str) -> str:
    """Return the table for a page, with the figure and a line about it."""
    bars = "|" + "---|" * len(_COLUMNS)
    cut = [f"| {' | '.join(row)} |" for row in (list(_COLUMNS), *rows(cells, rounds))]
    picture = f"![Images per second and time to the accuracy of each cell]({figure})"
    return "\n".join([BEGIN, "", about, "", cut[0], bars, *cut[1:], "", picture, "", END])


def replace_figures(page: Path, text: str) -> None:
    """Replace the figures of a page.

    Raises:
        ValueError: The page does not contain the marks of its figures.
    """
    content = page.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} does not contain {BEGIN} and {END}")
    page.write_text(before + text + after, encoding="utf-8")


def hardware() -> str:
    """Describe the machine, the versions and the date."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "mlflow"))
    return f"{device}, {usable_cores()} CPU cores; Python {platform.python_version()}, {packages}; {date.today()}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = information.read_text().splitlines() if information.exists() else []
    return next((line.partition(": ")[2] for line in names if line.startswith("model name")), platform.machine())


def draw(cells: Sequence[Cell], rounds: Sequence[Round]) -> Figure:
    """Draw images per second and the time to the accuracy: a bar for the median, a line for the spread."""
    figure = Figure(figsize=(9, 0.3 * len(cells) + 1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, measure, label in zip(
        axes, (IMAGES, TIME), ("images per second", "seconds to the accuracy"), strict=True
    ):
        for place, cell in enumerate(cells):
            if found := values(rounds, cell.name, measure):
                middle = statistics.median(found)
                span = [[middle - min(found)], [max(found) - middle]]
                axis.barh(place, middle, color="tab:orange" if cell.processes > 1 or cell.jobs > 1 else "tab:blue")
                axis.errorbar(middle, place, xerr=span, color="black", linewidth=1, capsize=2)
        axis.set(xlabel=label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(cells)), [cell.name for cell in cells])
    axes[0].invert_yaxis()
    figure.suptitle("orange: several processes; blue: one", fontsize="small")
    return figure
