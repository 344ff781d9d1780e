"""Image classification, for any net and any dataset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning import Callback
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from project.engine.evaluation import Evaluation, percentile_intervals, wilson
from project.engine.task import Baseline, LossCallable, Mode
from project.tasks.image import ImageTask, NetCallable
from project.tasks.report import ClassificationReport
from project.tasks.scores import SMALL_IS_BETTER, ClassificationScores

MetricCallable = Callable[[int], Metric]
"""Makes a metric of logits (N, classes), normalised, and labels (N,); called with the number of classes."""


class ImageClassifier(ImageTask):
    """A task that trains a net to classify images.

    Args:
        net: Makes the net; called with `num_classes`, `in_channels` and `image_size`, returns a module that maps
            normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes; comes from the data, as does the next argument.
        class_names: Names of the classes, by label; the report needs them.
        loss: Makes the loss of logits (N, num_classes) and labels: int64 (N,), or shares of each class
            (N, num_classes) for mixed images and smoothed labels.
        label_smoothing: Share of each target spread over all classes; in [0, 1).
        metrics: Metrics by name, such as `{f1: torchmetrics.classification.MulticlassF1Score}`; each is called with
            `num_classes`. The accuracy is added, unless another metric has this name.
        options: See `ImageTask`.

    Raises:
        ValueError: The net does not take images of this size, or a setting is out of its range.
    """

    monitor = "val/accuracy"
    output_name: ClassVar[str] = "probabilities"
    from_data: ClassVar[tuple[str, ...]] = ("num_classes", "class_names", *ImageTask.from_data)

    def __init__(
        self,
        net: NetCallable,
        num_classes: int,
        class_names: Sequence[str] = (),
        loss: LossCallable = nn.CrossEntropyLoss,
        label_smoothing: float = 0.0,
        metrics: Mapping[str, MetricCallable] | None = None,
        **options: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"model.label_smoothing: got {label_smoothing}; it must be in [0, 1)")
        made: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        made |= {name: _made(name, make, num_classes) for name, make in (metrics or {}).items()}
        # A group of metrics is computed as one if their states are equal after the first batch, perhaps by chance.
        collection = MetricCollection(made, compute_groups=False)
        super().__init__(net=net, outputs=num_classes, loss=loss(), metrics=collection, **options)
        self._chosen_metrics = frozenset(metrics or {})
        self.num_classes, self.class_names, self.label_smoothing = num_classes, tuple(class_names), label_smoothing

    def training_targets(self, targets: Tensor) -> Tensor:
        """Smooth labels (N,) int64 or shares (N, num_classes) float."""
        if not self.label_smoothing:
            return targets
        shares = F.one_hot(targets, self.num_classes).float() if targets.ndim == 1 else targets
        return shares.lerp(torch.full_like(shares, 1 / self.num_classes), self.label_smoothing)

    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        """Update the metrics; the label of a mixed image is that of its largest share.

        The metrics get the logarithms of the probabilities, because torchmetrics takes logits that all lie in [0, 1]
        for probabilities: https://github.com/Lightning-AI/torchmetrics/issues/2195
        """
        metrics.update(outputs.float().log_softmax(1), targets if targets.ndim == 1 else targets.argmax(1))

    def configure_callbacks(self) -> list[Callback]:
        return [ClassificationReport(self.class_names)] if self.class_names else []

    def evaluation(self, outputs: Tensor, targets: Tensor) -> Evaluation:
        """Return the scores of `ClassificationScores`, and the probabilities of each image."""
        labels, probabilities = targets if targets.ndim == 1 else targets.argmax(1), outputs.double().softmax(1)
        scores = ClassificationScores(probabilities.numpy(), labels.numpy())
        names, chosen = self.serving_names(), self._chosen_metrics
        # A metric of the settings may differ from the score of the same name.
        own = {name: values for name, values in scores.draws().items() if name not in chosen}
        hits = {name: each for name, each in scores.hits().items() if name not in chosen}
        draws = self.metric_draws(outputs, targets, without=hits) | own
        modes: dict[str, Mode] = {name: "min" if name in SMALL_IS_BETTER else "max" for name in own}
        return Evaluation(
            scores={name: value for name, value in scores.scores().items() if name not in chosen},
            intervals=percentile_intervals(draws)
            | {name: wilson(int(each.sum()), len(each)) for name, each in hits.items()},
            hits=hits,
            draws=draws,
            modes=self.modes_of(draws) | modes,
            samples={
                "label": labels.numpy(),
                "true_class": [names[label] for label in labels],
                **self.predictions(outputs),
                **{f"p/{name}": column.numpy() for name, column in zip(names, probabilities.float().T, strict=True)},
            },
            tables={"per_class": scores.per_class(names)},
        )

    def predictions(self, outputs: Tensor, top_k: int = 1) -> dict[str, Any]:
        """Return the classes with the largest probabilities, and these probabilities."""
        names = self.serving_names()
        # Of equal logits, which are frequent in bfloat16, the first is the prediction, as in the accuracy.
        probabilities, labels = outputs.double().softmax(1).float().sort(dim=1, descending=True, stable=True)
        columns: dict[str, Any] = {}
        for place, (label, probability) in enumerate(zip(labels.T[:top_k], probabilities.T[:top_k], strict=True), 1):
            suffix = "" if place == 1 else f"_{place}"
            columns[f"class{suffix}"] = [names[number] for number in label]
            columns[f"probability{suffix}"] = probability.numpy()
        return columns

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the logarithm of the mean probabilities (N, num_classes)."""
        return torch.stack([each.float().softmax(1) for each in outputs]).mean(0).log()

    def baseline(self, targets: Tensor) -> Baseline | None:
        """Return the accuracy of predicting the most frequent class for every image."""
        if "accuracy" in self._chosen_metrics or targets.ndim > 1 or not len(targets):
            return None
        counts = targets.bincount()
        return Baseline("accuracy", int(counts.max()) / len(targets), "always guessing the commonest class")

    def serving_model(self) -> nn.Module:
        """Return the classifier with probabilities (N, num_classes) as its output."""
        return Probabilities(self)

    def serving_names(self) -> Sequence[str]:
        """Return the names of the classes, or else their numbers."""
        return self.class_names or [str(label) for label in range(self.num_classes)]

    def serving_metadata(self) -> dict[str, Any]:
        """Return the names of the classes, by column of the output."""
        return {"class_names": list(self.class_names)}


class Probabilities(nn.Module):
    """A classifier whose output is probabilities instead of logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to probabilities (N, classes), float32."""
        logits: Tensor = self.classifier(images)
        return logits.float().softmax(1)


def _made(name: str, make: MetricCallable, num_classes: int) -> Metric:
    try:
        return make(num_classes)
    except (AttributeError, TypeError, ValueError) as error:  # torchmetrics.F1Score takes the name of a task.
        raise ValueError(
            f"model.metrics.{name}: cannot be made from the number of classes ({error}); give another class, such as "
            "torchmetrics.classification.MulticlassF1Score"
        ) from error
