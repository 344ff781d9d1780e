"""The report on the errors of the best model, stored as artifacts of the run."""

import csv
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.logger import MLflowLogger
from project.tasks.figures import confusion_figure, drawable, mistakes_figure

_SHOWN = 25
_FOLDERS = {TrainerFn.VALIDATING: "val", TrainerFn.TESTING: "test"}

Mistakes = tuple[Tensor, ...]  # probability (N,), images (N, C, H, W), labels (N,), predictions (N,); the worst first


class ClassificationReport(Callback):
    """A confusion matrix, the accuracy per class and a grid of the most confident mistakes.

    `trainer.test` and `trainer.validate` make the report; the validation within `trainer.fit` does not.
    Batches are images (N, C, H, W) uint8 and labels (N,); `test_step` and `validation_step` return logits (N, classes).
    The report covers the images of all ranks. An error in the report does not end the run.

    Args:
        class_names: Names of the classes, by label.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._logger: MLflowLogger | None = None  # None if nothing is tracked
        self._confusion = MulticlassConfusionMatrix(len(class_names), sync_on_compute=False)
        self._worst: list[Mistakes] = []
        self._active = self._failed = False

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active = trainer.state.fn in _FOLDERS
        if self._active:
            self._logger = MLflowLogger.of(trainer)
            self._failed, self._worst = False, []
            self._confusion.reset()
            self._confusion.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._active or self._failed:
            return
        self._failed = True
        with self._best_effort():
            images, labels = batch
            probability, guess = outputs.float().softmax(1).max(1)
            self._confusion.update(guess, labels)
            wrong = torch.where(guess != labels, probability, 0.0).topk(min(_SHOWN, len(labels))).indices
            found = (probability[wrong], images[wrong], labels[wrong], guess[wrong])
            self._worst = [_most_confident([*self._worst, found])]
            self._failed = False

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._active:
            return
        # All ranks are asked, even if they failed; the first one draws the figures.
        mine = None if self._failed else (self._confusion.compute().cpu(), *(part.cpu() for part in self._worst[0]))
        found: list[Any] = [mine]
        if trainer.world_size > 1:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, mine)
        if trainer.is_global_zero and self._logger is not None and not self._failed:
            with self._best_effort():
                if None in found:
                    raise RuntimeError("the report failed on another rank")
                confusion = sum(one[0] for one in found)
                worst = _most_confident([one[1:] for one in found])
                self._log(self._logger, _FOLDERS[trainer.state.fn], confusion, worst)  # type: ignore[index]

    on_validation_epoch_start = on_test_epoch_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end

    def _best_effort(self) -> AbstractContextManager[None]:
        return best_effort(self._logger, "report", "the run has no complete report of its mistakes")

    def _log(self, logger: MLflowLogger, folder: str, confusion: Tensor, worst: Mistakes) -> None:
        logger.log_text(_per_class(confusion, self._class_names), f"{folder}/per_class_accuracy.csv", "report")
        names = drawable(self._class_names)
        logger.log_figure(lambda: confusion_figure(confusion, names), f"{folder}/confusion_matrix.png", "report")
        probability, images, labels, guess = worst
        wrong = guess != labels
        true, guessed = ([names[label] for label in each[wrong]] for each in (labels, guess))
        mistakes = partial(mistakes_figure, images[wrong], true, guessed, probability[wrong].tolist())
        logger.log_figure(mistakes, f"{folder}/worst_mistakes.png", "report")


def _per_class(confusion: Tensor, names: Sequence[str]) -> str:
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["class", "images", "accuracy"])
    for name, count, right in zip(names, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True):
        rows.writerow([name, count, f"{right / count:.4f}" if count else ""])
    return table.getvalue()


def _most_confident(parts: Sequence[Mistakes]) -> Mistakes:
    probability, images, labels, guess = (torch.cat(part) for part in zip(*parts, strict=True))
    order = torch.where(guess != labels, probability, 0.0).argsort(descending=True)[:_SHOWN]
    return probability[order], images[order], labels[order], guess[order]
