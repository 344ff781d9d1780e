"""The examples reach a score that a model which learned nothing does not reach."""

import pytest
from conftest import ROOT
from mlflow import MlflowClient
from runs import EXAMPLES, ExampleRuns

from examples.multilabel import DigitScenes
from examples.regression import RotatedDigits
from examples.segmentation import DigitMasks
from project.engine.loading import ImageDataModule

# A metric with its bounds. Without learning, the error is 22.5 degrees, the average precision about 0.25, and the
# intersection over union below 0.5.
SCORES = {
    "regression": ("test/mae", 0, 18),
    "multilabel": ("test/average_precision", 0.5, 1),
    "segmentation": ("test/iou", 0.6, 1),
    "tabular": ("best/val_accuracy", 0.95, 1),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_learns(name: str, example_runs: ExampleRuns) -> None:
    metric, least, most = SCORES[name]
    run = MlflowClient().get_run(getattr(example_runs, name))
    assert run.info.status == "FINISHED"
    assert least <= run.data.metrics[metric] <= most, run.data.metrics


@pytest.mark.parametrize("kind", [DigitScenes, RotatedDigits, DigitMasks])
def test_images_are_normalised_by_the_statistics_of_train(kind: type[ImageDataModule]) -> None:
    data = kind()
    pixels = data.load("train").images.float() / 255  # type: ignore[union-attr]
    assert data.mean[0] == pytest.approx(pixels.mean().item(), abs=0.01)
    assert data.std[0] == pytest.approx(pixels.std().item(), abs=0.01)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.yaml")} == set(SCORES)
