from typing import Any

import pytest
from jsonargparse import Namespace

from project.engine.tracking.names import parameter_text, run_name

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
