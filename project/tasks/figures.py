"""Figures of a classifier's mistakes."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LABELS = 40
_COLUMNS = 5
_LONGEST_LABEL = 24
_LONGEST_IN_GRID = 14
_WIDEST_TITLE = 26
_INCHES_PER_LETTER = 0.09
_FONT = "DejaVu Sans"
"""The font that matplotlib comes with."""
_LITERAL: dict[str, Any] = {"family": _FONT, "parse_math": False}
"""Properties that draw a text literally: dollars are not mathematics."""

_log = logging.getLogger(__name__)


def drawable(names: Sequence[str]) -> list[str]:
    """Make labels for class names: long names are shortened; names that matplotlib's font lacks become numbers."""
    from matplotlib.font_manager import findfont, get_font  # It takes half a second to import, as below.

    known = get_font(findfont(_FONT)).get_charmap()
    unreadable = {
        name for name in names if not name.strip() or not name.isprintable() or not known.keys() >= set(map(ord, name))
    }
    if unreadable:
        _log.warning(
            "matplotlib's font lacks letters of %s class names, such as %r; the figures show their numbers instead",
            len(unreadable),
            next(name for name in names if name in unreadable),
        )
    short = [_shortened(name, _LONGEST_LABEL) for name in names]
    count = Counter(short)
    return [
        f"class {label}" if names[label] in unreadable or count[name] > 1 else name for label, name in enumerate(short)
    ]


def confusion_figure(confusion: Tensor, names: Sequence[str]) -> "Figure":
    """Draw a confusion matrix (classes, classes) of counts; rows are true classes, columns predictions."""
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    labelled, longest = len(names) <= _MOST_LABELS, max(map(len, names))
    side = 2.5 + 0.4 * min(len(names), _MOST_LABELS) + labelled * _INCHES_PER_LETTER * longest
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    if labelled:
        axes.set_xticks(range(len(names)), names, rotation=90 if longest > 2 else 0, **_LITERAL)
        axes.set_yticks(range(len(names)), names, **_LITERAL)
        for row, column in np.argwhere(confusion.numpy() > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(confusion[row, column])), ha="center", va="center", color=colour, fontsize=8)
    return figure


def mistakes_figure(
    images: Tensor, truth: Sequence[str], guesses: Sequence[str], confidence: Sequence[float]
) -> "Figure":
    """Draw images (N, C, H, W) uint8 in a grid, each with its class, the prediction and its probability."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(images) // _COLUMNS))
    figure = Figure(figsize=(2 * _COLUMNS, 2.4 * rows + 0.5))
    figure.suptitle("Worst mistakes: true → predicted (probability)" if len(images) else "No mistakes")
    # All images share one axes, because making an axes takes as long as drawing 20 images.
    axes = figure.add_axes((0, 0, 1, 1 - 0.5 / (2.4 * rows + 0.5)))
    axes.axis("off")
    for place, (image, true, guess, share) in enumerate(zip(images, truth, guesses, confidence, strict=True)):
        row, column = divmod(place, _COLUMNS)
        left, bottom = column, 1.2 * (rows - 1 - row)
        box = (left + 0.03, left + 0.97, bottom + 0.03, bottom + 0.97)
        axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", extent=box)
        title = _title(_shortened(true, _LONGEST_IN_GRID), _shortened(guess, _LONGEST_IN_GRID), share)
        axes.text(left + 0.5, bottom + 1, title, ha="center", va="bottom", fontsize=9, **_LITERAL)
    axes.set(xlim=(0, _COLUMNS), ylim=(0, 1.2 * rows))
    return figure


def _title(true: str, guess: str, share: float) -> str:
    line = f"{true} → {guess} ({share:.2f})"
    return line if len(line) <= _WIDEST_TITLE else f"{true}\n→ {guess} ({share:.2f})"


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - most // 2]}…{name[len(name) - most // 2 + 1 :]}"
