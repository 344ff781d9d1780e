"""The examples reach a score that a model which learned nothing does not reach."""

from pathlib import Path

import pytest
from conftest import ROOT, Fit

from project.fit import main

# A metric with its bounds, and options of a shorter training than that of the YAML. Without learning, the error is 22.5
# degrees, the average precision about 0.25, and the intersection over union below 0.5.
SCORES = {
    "regression": ("test/mae", 0, 18, "--max_epochs=1 --model.net.widths=[8,8,16,16] --model.optimizer.lr=0.01"),
    "multilabel": ("test/average_precision", 0.5, 1, "--max_epochs=1 --model.net.widths=[8,16] --data.batch_size=16"),
    "segmentation": ("test/iou", 0.6, 1, "--trainer.max_steps=40 --model.net.width=6 --data.batch_size=16"),
    "tabular": ("best/val_accuracy", 0.95, 1, "--max_epochs=10"),
}


@pytest.mark.parametrize("name", SCORES)
def test_an_example_learns(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    metric, least, most, options = SCORES[name]
    main(["--config", str(ROOT / f"examples/{name}.yaml"), *options.split()])
    done = Fit(workplace, 0, "")
    assert done.run.info.status == "FINISHED"
    assert least <= done.run.data.metrics[metric] <= most, done.run.data.metrics


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.yaml")} == set(SCORES)
