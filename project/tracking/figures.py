"""Pictures of a model's mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

_MOST_LABELS = 40


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
    columns = 5
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    figure.suptitle("Worst mistakes: true → predicted (probability)" if len(images) else "No mistakes")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, true, guess, share in zip(figure.axes, images, truth, guesses, confidence, strict=False):
        axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray")
        axes.set_title(f"{true} → {guess} ({share:.2f})", fontsize=9)
    return figure
