import json
from pathlib import Path

import pytest
from conftest import Fit, write_folder

from benchmarks.cifar10 import TRAININGS, USED, main, steps_in
from benchmarks.lines import FIELDS

TINY = ["--data.batch_size=4", "--data.val_fraction=0.25"]


@pytest.mark.parametrize(
    ("step_s", "validation_s", "steps_per_epoch"), [(0.1, 0.0, 7), (0.5, 4.0, 20), (9.0, 40.0, 25)]
)
def test_the_planned_steps_and_their_validations_fill_the_time(
    step_s: float, validation_s: float, steps_per_epoch: int
) -> None:
    def seconds(steps: int) -> float:
        return steps * step_s + -(-steps // steps_per_epoch) * validation_s

    steps = steps_in(600, step_s, validation_s, steps_per_epoch)
    assert seconds(steps) <= USED * 600
    assert seconds(steps + steps_per_epoch + 1) > USED * 600


@pytest.mark.faults
def test_all_train_for_the_time_and_are_compared_with_resnet18(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(workplace / "images", count=20)
    main(["--quick", "--minutes=0.1", "--data-root=images", *TINY])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    names = [f"test accuracy after 6 s: {name}" for name in TRAININGS]
    assert [line["name"] for line in lines] == names
    assert all(tuple(line) == FIELDS and line["unit"] == "share" and 0 <= line["value"] <= 1 for line in lines)
    peers = [None if name.endswith("resnet18") else "test accuracy after 6 s: resnet18" for name in names]
    assert [line["peer"] for line in lines] == peers
    runs = Fit(workplace, 0, "").runs
    assert {run.data.tags["mlflow.runName"].split()[0] for run in runs} == {"whitened_cnn", "resnet18", "cnn"}
    for run in runs:
        assert (run.info.status, run.data.params["trainer.max_time"]) == ("FINISHED", "00:00:00:06")
        assert "test/accuracy" in run.data.metrics
