"""What a fit leaves after its training, and that nothing there ends a good run."""

import csv
import os
import re
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL_NET, Fit
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from PIL import Image
from tiny import SERVED, TINY, TinyNet
from torch import Tensor, nn

from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.system import SystemMetrics
from project.engine.training.stop import Interrupted
from project.fit import main
from project.tasks.figures import confusion_figure, drawable, mistakes_figure

SMALL = ["--data", "image_folder", "--data.root", "photos", "--data.batch_size", "8", "--data.val_fraction", "0.2"]


def photos(*names: str, count: int) -> None:
    """Write noise in colours that differ a little between classes, so that some mistakes are left."""
    random = np.random.default_rng(0)
    for label, name in enumerate(names):
        folder = Path("photos/train", name)
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 200, (16, 16, 3)).astype(np.uint8)
            pixels[..., label % 3] += np.uint8(random.integers(0, 56))
            Image.fromarray(pixels).save(folder / f"{index}.png")


def test_a_fit_without_test_data_reports_on_what_scores_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos("cost_$^$_us", "price_$^$_eu", count=40)  # matplotlib would read the names as formulas.
    main([*SMALL, *SMALL_NET, "--max_epochs", "3"])
    done = Fit(workplace, 0, "")
    metrics, history = done.run.data.metrics, done.client.get_metric_history
    rows = list(csv.DictReader(done.text("val/per_class_accuracy.csv").splitlines()))
    counts = [int(row["images"]) for row in rows]
    right = sum(count * float(row["accuracy"]) for count, row in zip(counts, rows, strict=True))
    output = capsys.readouterr().out
    printed = re.search(r"best epoch +(\d) of 3 \(best val/accuracy: ([\d.]+)\)\nval accuracy +([\d.]+) \(", output)
    assert printed
    assert "project.sweep --search cnn --data image_folder --data.root photos" in output
    lines = [line.partition(": ")[0] for line in output.splitlines() if line.startswith("epoch ")]
    assert lines == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    best = metrics["best/val/accuracy"]
    assert sum(counts) == 16
    assert right / 16 == pytest.approx(best, abs=1e-3) == float(printed[2]) == float(printed[3])
    assert "report.error" not in done.run.data.tags
    assert done.artifacts() >= {"val/confusion_matrix.png", "val/worst_mistakes.png"}
    for name in ("val/accuracy", "val/loss"):
        assert len(history(done.run.info.run_id, name)) == 3  # one for each epoch, and none of the last look
    curve = [point.value for point in history(done.run.info.run_id, "val/accuracy")]
    assert curve[int(printed[1]) - 1] == best
    assert metrics["best/val/loss"] in [point.value for point in history(done.run.info.run_id, "val/loss")]
    (output,) = done.run.outputs.model_outputs
    model = done.client.get_logged_model(output.model_id)
    assert {m.key: m.value for m in model.metrics}["best/val/accuracy"] == best
    assert not any(m.key.startswith("val/") for m in model.metrics)


class DependsOnValues(TinyNet):
    """Its control flow depends on the values of an image, which torch.export cannot follow."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if logits.sum() > 0 else 2 * logits


class Scripted(TinyNet):
    """It has a part that is compiled by torch.jit.script."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.part = torch.jit.script(nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.part(super().forward(images))
        return logits


class OneByOne(TinyNet):
    """It loops over its images, so that the exported program is one for two images."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([super(OneByOne, self).forward(image[None])[0] for image in images])


@pytest.mark.parametrize(
    "net", [DependsOnValues, *(pytest.param(net, marks=pytest.mark.faults) for net in (Scripted, OneByOne))]
)
def test_a_net_that_cannot_be_served_is_trained_and_named(
    net: type[TinyNet], workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main([*SERVED, f"--model.net=test_endings.{net.__name__}", "--max_epochs=1"])
    done = Fit(workplace, 0, "").run
    assert done.info.status == "FINISHED"
    assert done.data.metrics["test/accuracy"] > 0
    assert done.outputs is not None
    models = done.outputs.model_outputs
    if models:
        served = mlflow.pyfunc.load_model(f"models:/{models[0].model_id}")
        assert len(served.predict(pd.DataFrame({"pixels": [np.zeros((8, 8), np.uint8)] * 3}))) == 3
    else:
        assert done.data.tags["model.error"]
        assert "no model to serve, only its checkpoints" in caplog.text


def test_a_metric_that_cannot_be_measured_is_absent(caplog: pytest.LogCaptureFixture) -> None:
    logged: dict[str, float] = {}
    metrics = SystemMetrics(lambda: None, lambda values, _: logged.update(values), kinds=[GPUMonitor, CPUMonitor])
    metrics.start()
    metrics.stop()
    assert "system/cpu_utilization_percentage" in logged
    if not torch.cuda.is_available():
        assert "no metrics of GPUMonitor: " in caplog.text


def test_a_step_after_training_that_fails_is_a_tag_and_a_line(caplog: pytest.LogCaptureFixture) -> None:
    tags: dict[str, str] = {}

    class Run:
        def set_tags(self, new: Mapping[str, str]) -> None:
            tags.update(new)

    with best_effort(Run(), "report", "the run has no report"):
        raise ValueError("Expected end of text,\nfound '$'")
    assert tags == {"report.error": "ValueError: Expected end of text, found '$'"}
    assert "the run has no report: ValueError" in caplog.text
    with pytest.raises(SystemExit), best_effort(Run(), "report", ""):
        raise Interrupted(signal.SIGTERM)


def test_figures_draw_any_name(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    names = ["é", "猫", "$x", "a\nb", "z" * 240, "y" * 120 + "é"]
    labels = drawable(names)
    assert labels[:4] == ["é", "class 1", "$x", "class 3"]
    assert max(map(len, labels)) == 24
    assert "lacks letters of 2 class names, such as '猫'" in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a glyph that is missing
        confusion = torch.ones(len(names), len(names), dtype=torch.int64)
        confusion_figure(confusion, labels).savefig(tmp_path / "confusion.png", bbox_inches="tight")
        images = torch.zeros(len(names), 3, 8, 8, dtype=torch.uint8)
        grid = mistakes_figure(images, labels, labels, [0.5] * len(names))
        grid.savefig(tmp_path / "mistakes.png", bbox_inches="tight")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 1000


def test_loggers_of_the_user_are_added(workplace: Path) -> None:
    csv_logger = "{class_path: CSVLogger, init_args: {save_dir: %s}}"
    main([f"--trainer.logger=[{csv_logger % 'a'}, {csv_logger % 'b'}]", *TINY, "--max_epochs=1"])
    done = Fit(workplace, 0, "")
    assert done.run.info.status == "FINISHED"
    accuracy = done.run.data.metrics["test/accuracy"]
    for folder in ("a", "b"):
        (table,) = (workplace / folder).rglob("metrics.csv")
        logged = [row["test/accuracy"] for row in csv.DictReader(table.read_text().splitlines())]
        assert float(logged[-1]) == pytest.approx(accuracy)


def test_an_artifact_that_the_disk_refuses_is_a_tag(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    client, logger = MlflowClient(), MLflowLogger("digits", "run")
    logger.start(client, {})
    assert logger.spool is not None
    (logger.spool.files / "test").write_text("a file where the report's folder should be")
    logger.log_figure(Figure, "test/confusion_matrix.png", "report")
    logger.log_text("a,b", "tables/a.csv", "report")
    logger.end("FINISHED")
    run = client.get_run(str(logger.version))
    assert run.info.status == "FINISHED"
    assert "Error: [Errno " in run.data.tags["report.error"]
    assert "test/confusion_matrix.png cannot be written" in caplog.text
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "tables")] == ["tables/a.csv"]


class Stopped(TinyNet):
    """A signal comes while it is exported."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(images)


def test_a_signal_after_training_is_not_logged_as_an_error(workplace: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*SERVED, "--model.net=test_endings.Stopped", "--max_epochs=1"])
    run = Fit(workplace, 0, "").run
    assert ended.value.code == 143
    assert run.info.status == "KILLED"
    assert "model.error" not in run.data.tags


@pytest.mark.parametrize("count", [1, pytest.param(1000, marks=pytest.mark.faults)])
def test_figures_of_one_class_or_a_thousand(count: int, tmp_path: Path) -> None:
    names = drawable([f"class of number {label}" for label in range(count)])
    figures = confusion_figure(torch.eye(count, dtype=torch.int64), names), mistakes_figure(torch.zeros(0), [], [], [])
    for figure in figures:
        figure.savefig(tmp_path / "figure.png", bbox_inches="tight")
        with Image.open(tmp_path / "figure.png") as picture:
            assert max(picture.size) < 2000
