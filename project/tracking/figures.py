"""Pictures of a model's mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

_MOST_LABELS = 40
_COLUMNS = 5


def confusion_figure(confusion: Tensor, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix (classes, classes), rows the truth, columns the prediction, int counts."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = 2.5 + 0.4 * min(len(names), _MOST_LABELS)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    if len(names) <= _MOST_LABELS:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(confusion.numpy() > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(confusion[row, column])), ha="center", va="center", color=colour, fontsize=8)
    return figure


def mistakes_figure(
    images: Tensor, truth: Sequence[str], guesses: Sequence[str], confidence: Sequence[float]
) -> Figure:
    """Draw images (N, C, H, W) uint8 in a grid, each with its class, the guess and its probability."""
    rows = max(1, -(-len(images) // _COLUMNS))
    figure = Figure(figsize=(2 * _COLUMNS, 2.4 * rows + 0.5))
    figure.suptitle("Worst mistakes: true → predicted (probability)" if len(images) else "No mistakes")
    axes = figure.add_axes((0, 0, 1, 1 - 0.5 / (2.4 * rows + 0.5)))  # one for all: each costs what 20 images cost
    axes.axis("off")
    for place, (image, true, guess, share) in enumerate(zip(images, truth, guesses, confidence, strict=True)):
        row, column = divmod(place, _COLUMNS)
        left, bottom = column, 1.2 * (rows - 1 - row)
        box = (left + 0.03, left + 0.97, bottom + 0.03, bottom + 0.97)
        axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", extent=box)
        axes.text(left + 0.5, bottom + 1, f"{true} → {guess} ({share:.2f})", ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, _COLUMNS), ylim=(0, 1.2 * rows))
    return figure
