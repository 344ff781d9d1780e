"""The declarations of a task, such as its loss and its metrics, and their effect in the engine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from tiny import TINY
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from project.engine.monitor import monitored
from project.engine.task import Task
from project.fit import main
from project.tasks import ImageClassifier

F1 = "--model.metrics={f1: torchmetrics.classification.MulticlassF1Score}"


def classifier(classes: int = 3, **options: Any) -> ImageClassifier:
    def net(classes: int, channels: int, size: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))

    return ImageClassifier(net, classes, in_channels=1, image_size=2, mean=[0.0], std=[1.0], **options)


def test_label_smoothing_equals_torchs() -> None:
    logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
    task = classifier(label_smoothing=0.3)
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(task.loss(logits, task.training_targets(labels)), expected)


def test_each_sample_has_the_same_share_of_the_loss_of_an_epoch() -> None:
    task, images, labels = classifier(), torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    for part in (slice(0, 3), slice(3, 4)):
        task.training_step((images[part], labels[part]), 0)
    torch.testing.assert_close(task.train_loss.compute(), task.loss(task(images), labels).detach())


def test_a_batch_of_two_inputs_counts_its_samples() -> None:
    class Product(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return pair[0] * pair[1]

    task = Task(net=Product(), loss=nn.MSELoss())
    for size in (3, 1):
        ones = torch.ones(size)
        task.training_step(((ones, size * ones), 0 * ones), 0)  # type: ignore[arg-type]
    assert task.train_loss.compute() == (3 * 3**2 + 1) / 4


@pytest.mark.parametrize("targets_of", [lambda size: {"value": torch.zeros(size)}, lambda size: [{}] * size])
def test_a_batch_of_other_targets_counts_its_samples(targets_of: Callable[[int], Any]) -> None:
    task = Task(net=nn.Identity(), loss=lambda outputs, _: outputs.square().mean())
    for size in (3, 1):
        task.training_step((torch.full((size,), float(size)), targets_of(size)), 0)
    assert task.train_loss.compute() == (3 * 3**2 + 1) / 4


def test_metrics_declare_their_direction() -> None:
    assert monitored(classifier(), None, None) == ("val/accuracy", "max")
    assert monitored(classifier(), "val/loss", None) == ("val/loss", "min")
    assert monitored(classifier(), "train/loss", None) == ("train/loss", "min")
    with pytest.raises(ValueError, match=r"got val/acuracy \(did you mean val/accuracy\?\); it may be train/loss,"):
        monitored(classifier(), "val/acuracy", None)


@pytest.mark.faults
def test_another_metric_is_logged_and_selects_the_best_checkpoint(workplace: Path) -> None:
    main([*TINY, F1, "--checkpoint.monitor=val/f1", "--max_epochs=2"])
    run = Fit(workplace, 0, "").run
    assert {"train/f1", "val/f1", "test/f1", "best/val/f1", "test/accuracy"} <= set(run.data.metrics)
    history = Fit(workplace, 0, "").client.get_metric_history(run.info.run_id, "val/f1")
    assert run.data.metrics["best/val/f1"] == max(point.value for point in history)
    assert run.data.tags["monitor"] == "val/f1 (max)"
    assert "metrics=f1:MulticlassF1Score" in str(run.info.run_name)


def test_the_loss_is_an_argument(workplace: Path) -> None:
    loss = ["--model.loss=torch.nn.MultiMarginLoss", "--model.loss.margin=9.0", "--model.label_smoothing=0"]
    main([*TINY, *loss, "--max_epochs=1"])
    # With a margin of 9 and equal scores, the loss is about 9 / 2; cross-entropy is 0.7.
    first = Fit(workplace, 0, "").client.get_metric_history(Fit(workplace, 0, "").run.info.run_id, "val/loss")[0]
    assert first.value > 3


def test_a_required_argument_of_a_model_can_be_an_option(workplace: Path) -> None:
    data = ["--data=tiny.Tiny", "--data.batch_size=4"]
    main([*data, "--model=tiny.TinyTask", "--model.net=tiny.TinyNet", "--max_epochs=1"])
    assert Fit(workplace, 0, "").run.info.run_name.startswith("TinyNet ")


def test_metrics_that_agree_on_the_first_batch_stay_apart() -> None:
    task = classifier(metrics={"f1": MulticlassF1Score, "top2": partial(MulticlassAccuracy, top_k=2)})
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    for label in (2, 1):  # The first one is in neither, the second one in the first two.
        task.update_metrics(task.val_metrics, logits, torch.tensor([label]))
    assert task.val_metrics.compute()["val/f1"] == 0
    assert task.val_metrics.compute()["val/top2"] == 0.5


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    task, labels = classifier(metrics={"error": MulticlassCalibrationError}), torch.tensor([0, 1])
    task.update_metrics(task.val_metrics, torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.9, 0.1]]), labels)
    assert task.val_metrics.compute()["val/error"] == pytest.approx(1 - torch.tensor([0.9, 0.0, 0.1]).softmax(0)[0])


def test_of_equal_logits_the_first_is_predicted_as_in_the_accuracy() -> None:
    logits = torch.randint(9, (500, 20), generator=torch.Generator().manual_seed(0)).float()
    task, labels = classifier(20), logits.argmax(1)
    assert [int(name) for name in task.predictions(logits)["class"]] == labels.tolist()
    task.update_metrics(task.val_metrics, logits, labels)
    assert task.val_metrics.compute()["val/accuracy"] == 1


def test_a_metric_of_the_settings_replaces_the_score_of_its_name() -> None:
    labels = torch.tensor([0] * 9 + [1])
    logits = torch.tensor([[1.0, 0.0, 0.0]]).expand(10, 3)
    plain = classifier().evaluation(logits, labels)
    task = classifier(metrics={"macro_f1": partial(MulticlassF1Score, average="weighted")})
    found = task.evaluation(logits, labels)
    assert plain.scores.keys() - found.scores.keys() == {"macro_f1"}
    ends = found.intervals["macro_f1"]
    assert plain.scores["macro_f1"] < ends.low < 0.9 * 18 / 19 < ends.high  # the weighted mean


class TwoGroups(Task):
    def parameter_groups(self) -> list[dict[str, Any]]:
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        return [
            {"params": weights, "name": "decay"},
            {"params": others, "name": "no_decay", "weight_decay": 0.0, "lr_scale": 0.5},
        ]


def test_parameter_groups_reach_the_optimizer() -> None:
    task = TwoGroups(nn.Linear(2, 3), nn.CrossEntropyLoss(), MetricCollection({"f1": MulticlassF1Score(3)}))
    groups = task.make_optimizer().param_groups
    expected = [("decay", 0.01, 1e-3), ("no_decay", 0.0, 5e-4)]
    assert [(group["name"], group["weight_decay"], group["lr"]) for group in groups] == expected
    assert task.logged_metrics() >= {"val/f1", "val/loss"}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_optimizer_is_the_default_and_has_the_same_result(optimizer: Any) -> None:
    weights = []
    for options in ({}, {"fused": False}):
        torch.manual_seed(0)
        task = classifier(optimizer=partial(optimizer, lr=0.1, **options))
        made = task.make_optimizer()
        assert made.param_groups[0]["fused"] is (not options)
        for _ in range(3):
            made.zero_grad()
            task(torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)).square().sum().backward()
            made.step()
        weights.append([p.detach().clone() for p in task.net.parameters()])
    torch.testing.assert_close(*weights)


def test_settings_that_exclude_a_fused_optimizer_are_kept() -> None:
    for options in ({"foreach": True}, {"differentiable": True}):
        assert not classifier(optimizer=partial(torch.optim.AdamW, **options)).make_optimizer().param_groups[0]["fused"]
