"""The layout of an epoch's values: a row of a table for a terminal, or a line with names for a file."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

_LONGEST_NAME = 12
_BETWEEN = "  "
_NO_VALUE = "-"


class Cell(NamedTuple):
    """A value of an epoch.

    Attributes:
        group: What the value belongs to, such as `val`; empty for none.
        name: Its name, such as `loss`.
        text: The value; empty for none.
        rank: Which values a narrow terminal shows: 0 for always; the highest is left out first.
        least: Least width of its column.
    """

    group: str
    name: str
    text: str
    rank: int = 0
    least: int = 6

    @property
    def column(self) -> tuple[str, str]:
        """The column of the value."""
        return self.group, self.name


class EpochTable:
    """A table whose columns fit a width; values that do not fit are left out, and no line is longer than the width.

    Args:
        width: Number of characters in a line.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._known: set[tuple[str, str]] = set()
        self._shown: dict[tuple[str, str], int] = {}  # Their widths.

    def header(self, cells: Sequence[Cell]) -> list[str]:
        """Return two lines with the names of groups and columns; none if all columns of these values are known."""
        if self._known.issuperset(cell.column for cell in cells):
            return []
        self._known = {cell.column for cell in cells}
        names = self._fit(cells)
        groups = groupby(self._shown.items(), key=lambda item: item[0][0])
        spans = [(group, self._line(" " * width for _, width in columns)) for group, columns in groups]
        above = [f" {group} ".center(len(span), "-") if group else span for group, span in spans]
        below = [name.rjust(width) for name, width in zip(names, self._shown.values(), strict=True)]
        return [line for line in (self._line(above).rstrip(), self._line(below)) if line]

    def row(self, cells: Sequence[Cell]) -> str:
        """Return the line of an epoch."""
        texts = {cell.column: cell.text or _NO_VALUE for cell in cells}
        return self._line(texts.get(column, _NO_VALUE).rjust(width) for column, width in self._shown.items())

    def _line(self, parts: Iterable[str]) -> str:
        return _BETWEEN.join(parts)[: self._width]

    def _fit(self, cells: Sequence[Cell]) -> list[str]:
        """Choose the columns and their widths; return their names, of which long ones are shortened."""
        kept = sorted(range(len(cells)), key=lambda place: cells[place].rank)
        while True:
            chosen = [cells[place] for place in sorted(kept)]
            names = [_shortened(cell.name) for cell in chosen]
            widths = [max(len(n), len(c.text), c.least) for n, c in zip(names, chosen, strict=True)]
            self._shown = {cell.column: width for cell, width in zip(chosen, widths, strict=True)}
            if sum(widths) + len(_BETWEEN) * (len(widths) - 1) <= self._width or not cells[kept.pop()].rank:
                return names


def line_with_names(cells: Sequence[Cell]) -> str:
    """Return the values of an epoch, each with its name, without those that it does not have."""
    return ", ".join(" ".join(filter(None, [*cell.column, cell.text])) for cell in cells if cell.text)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def clock(seconds: float) -> str:
    """Return a duration in about six characters: `12.3 s`, `4:56` or `1:23:45`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
