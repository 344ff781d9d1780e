"""The summary at the end of a fit, from which a person learns how good the model is."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Fit
from PIL import Image
from test_any_module import Slope
from tiny import TINY
from torch import Tensor

from project.engine.tracking.description import TAG
from project.fit import main

SMALL = ["--data=image_folder", "--data.root=photos", "--data.batch_size=4", "--data.augmentation.crop_padding=0",
         "--model.class_path=tiny.TinyTask", "--model.net=tiny.TinyNet", "--max_epochs=1"]  # fmt: skip


def photos(test: bool, cats: int, dogs: int) -> None:
    """Write noise in a folder of cats and dogs; without test images, those of val score the model."""
    random = np.random.default_rng(0)
    for split in ("train", "test" if test else "val"):
        for name, count in (("cat", cats), ("dog", dogs)):
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.mark.parametrize("stage", ["test", pytest.param("val", marks=pytest.mark.faults)])
def test_the_accuracy_is_beside_that_of_always_guessing_the_commonest_class(
    stage: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(stage == "test", cats=15, dogs=5)
    main(SMALL)
    output, run = capsys.readouterr().out, Fit(workplace, 0, "").run
    sentence = re.escape("(0.7500 by always guessing the commonest class)")
    assert re.search(rf"^{stage} accuracy +0\.\d{{4}} {sentence}$", output, re.MULTILINE)
    assert run.data.tags["baseline"] == f"{stage}/accuracy 0.7500 (always guessing the commonest class)"


@pytest.mark.faults
def test_another_metric_named_accuracy_has_no_baseline(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    balanced = "{class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {average: macro}}"
    main([*TINY, "--max_epochs=1", f"--model.metrics={{accuracy: {balanced}}}"])
    assert "guessing" not in capsys.readouterr().out
    assert "baseline" not in Fit(workplace, 0, "").run.data.tags


class Precise(Slope):
    """A module with a tiny error."""

    monitor, mode = "val_error", "min"

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_error", 3.24e-5)


def test_a_tiny_score_is_not_shown_as_zero(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model=test_summary.Precise", "--data=test_any_module.LineWithVal", "--max_epochs=1"])
    output = capsys.readouterr().out
    assert "(best val_error: 3.2e-05)" in output
    assert "0.0000" not in output
    assert "**val_error 3.2e-05**" in Fit(workplace, 0, "").run.data.tags[TAG]


def test_ids_paths_and_commands_are_on_lines_of_their_own(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, "--max_epochs=2"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    done = Fit(workplace, 0, "")
    run_id = done.run.info.run_id
    (best,) = Path("mlruns/checkpoints").glob("*/best-*.ckpt")
    curve = [point.value for point in done.client.get_metric_history(run_id, "val/accuracy")]
    epoch = max(place for place, value in enumerate(curve, 1) if value == max(curve))
    assert f"best epoch         {epoch} of 2 (best val/accuracy: {max(curve):.4f})" in lines
    assert {run_id, str(best), "python -m project.ui"} <= set(lines)
    assert f"python -m project.fit --resume {run_id} --max_epochs 4" in lines
    assert any(re.fullmatch(r"duration +\d+\.\d s", line) for line in lines)
