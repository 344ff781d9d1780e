"""The examples reach a score that a model which learned nothing does not reach."""

from pathlib import Path

import pytest
from conftest import ROOT, Fit

from project.fit import main

# A metric, and its bounds. Without learning, the error is 22.5 degrees, and the precision about 0.25.
SCORES = {
    "regression": ("test/mae", 0, 9),
    "multilabel": ("test/average_precision", 0.7, 1),
    "segmentation": ("test/iou", 0.8, 1),
    "tabular": ("best/val_accuracy", 0.95, 1),
}


@pytest.mark.parametrize("name", SCORES)
def test_an_example_learns(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    main(["--config", str(ROOT / f"examples/{name}.yaml")])
    done = Fit(workplace, 0, "")
    metric, least, most = SCORES[name]
    assert done.run.info.status == "FINISHED"
    assert least <= done.run.data.metrics[metric] <= most, done.run.data.metrics


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.yaml")} == set(SCORES)
