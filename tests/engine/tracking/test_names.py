from typing import Any

import pytest
from jsonargparse import Namespace

from project.engine.tracking.names import metric_name, parameter_text, run_name, score_text

TIMER = Namespace(class_path="lightning.pytorch.callbacks.Timer", init_args=Namespace(duration=None, verbose=True))
WITH_KEY = Namespace(class_path="service.Client", init_args=Namespace(api_key="hunter2", n=1))
OF_STRING = "trainer.gradient_clip_val"


@pytest.mark.parametrize(
    ("subject", "settings", "name"),
    [
        ("resnet18", {"model.optimizer.lr": 0.01}, "resnet18 lr=0.01"),
        ("cnn", {}, "cnn"),
        ("trial 5", {"model.optimizer.lr": 0.00187654, "model.net.dropout": 0.1}, "trial 5 lr=0.00188 dropout=0.1"),
        ("cnn", {"trainer.max_epochs": 12345, "model.optimizer.lr": 1234.5}, "cnn lr=1.23e+03 max_epochs=12345"),
        ("cnn", {"trainer.callbacks": [TIMER, TIMER]}, "cnn callbacks=Timer,Timer"),
        ("cnn", {"model.optimizer": "torch.optim.SGD"}, "cnn optimizer=SGD"),
        ("cnn", {"model.metrics": {"f1": TIMER}}, "cnn metrics=f1:Timer"),
        ("cnn", {"model.net.widths": [8, 0.123456]}, "cnn widths=8,0.123"),
        ("cnn", {"model.net.weights": "weights.pt", OF_STRING: None}, "cnn weights=weights.pt gradient_clip_val=None"),
        ("cnn", {"model.a.gamma": 1, "model.b.gamma": 2}, "cnn a.gamma=1 b.gamma=2"),
        ("cnn", {"model.net.a": "a" * 60, "data.batch_size": 64}, "cnn batch_size=64…"),
        ("cnn", {"data.api_token": "hf_12345678"}, "cnn api_token=***"),
        ("cnn", {f"model.size_{n}": n for n in range(9)}, "cnn size_0=0 size_1=1 size_2=2 size_3=3 size_4=4 size_5=5…"),
    ],
)  # fmt: skip
def test_a_run_name_begins_with_what_differs(subject: str, settings: dict[str, Any], name: str) -> None:
    assert run_name(subject, settings) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (WITH_KEY, "Client(api_key=***, n=1)"),
        ([TIMER], "Timer(verbose=True)"),
        ({"f1": TIMER}, "f1: Timer(verbose=True)"),
        (TIMER, "Timer(verbose=True)"),
        ([8, 16], "[8, 16]"),
        (0.123456, "0.123456"),
        (None, "None"),
    ],
)
def test_a_parameter_is_exact_and_names_classes_shortly(value: object, text: str) -> None:
    assert parameter_text(value) == text


def test_metrics_whose_names_mlflow_refuses_stay_different() -> None:
    assert [metric_name(name) for name in ("val/a_b.c: d", "a@5", "a#5")] == ["val/a_b.c: d", "a-5", "a-x23-5"]


@pytest.mark.parametrize(("value", "text"), [
    (0.98765, "0.9877"), (12.3456, "12.346"), (1234.56, "1234.6"), (123456.0, "123456"), (1234567.0, "1.2e+06"),
    (0.0, "0.0000"), (0.000012345, "1.2e-05"), (-0.5, "-0.5000"), (float("nan"), "nan"), (float("inf"), "inf"),
])  # fmt: skip
def test_a_metric_takes_seven_characters_at_most(value: float, text: str) -> None:
    assert score_text(value) == text
