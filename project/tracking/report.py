"""What the best model gets wrong on the test set, as artifacts of the run."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from project.tracking.figures import confusion_figure, mistakes_figure
from project.tracking.logger import MLflowLogger

_SHOWN = 25


class TestReport(Callback):
    """Logs a confusion matrix, the accuracy of each class and a grid of the most confident mistakes.

    Expects batches of images (N, C, H, W) uint8 and labels (N,), and `test_step` to return logits
    (N, classes). The images of all ranks count.

    Args:
        class_names: Names of the classes, by label.
    """

    __test__ = False  # not a test case, whatever its name

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        self._confusion = MulticlassConfusionMatrix(len(class_names))
        self._worst: list[tuple[Tensor, ...]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._confusion.reset()
        self._confusion.to(pl_module.device)
        self._worst = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        images, labels = batch
        probability, guess = outputs.float().softmax(1).max(1)
        self._confusion.update(guess, labels)
        wrong = torch.where(guess != labels, probability, 0.0).topk(min(_SHOWN, len(labels))).indices
        found = (probability[wrong], images[wrong], labels[wrong], guess[wrong])
        self._worst = [_most_confident([*self._worst, found])]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every rank takes part in the sums; the first one draws.
        confusion = self._confusion.compute().cpu()
        worst: list[Any] = [None] * trainer.world_size
        mine = tuple(part.cpu() for part in self._worst[0])
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(worst, mine)
        else:
            worst = [mine]
        if trainer.is_global_zero and isinstance(trainer.logger, MLflowLogger):
            self._log(trainer.logger, confusion, *_most_confident(worst))

    def _log(
        self,
        logger: MLflowLogger,
        confusion: Tensor,
        probability: Tensor,
        images: Tensor,
        labels: Tensor,
        guess: Tensor,
    ) -> None:
        wrong = guess != labels
        names = self.class_names
        logger.log_figure(confusion_figure(confusion, names), "test/confusion_matrix.png")
        logger.log_figure(
            mistakes_figure(
                images[wrong],
                [names[label] for label in labels[wrong]],
                [names[label] for label in guess[wrong]],
                probability[wrong].tolist(),
            ),
            "test/worst_mistakes.png",
        )
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["class", "images", "accuracy"])
        for name, counts, right in zip(names, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True):
            rows.writerow([name, counts, f"{right / counts:.4f}" if counts else ""])
        logger.log_text(table.getvalue(), "test/per_class_accuracy.csv")


def _most_confident(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    probability, images, labels, guess = (torch.cat(part) for part in zip(*parts, strict=True))
    order = torch.where(guess != labels, probability, 0.0).argsort(descending=True)[:_SHOWN]
    return probability[order], images[order], labels[order], guess[order]
