"""The options of image datamodules, in groups."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from project.engine.loading import Augmentation, Workers
from project.fit import main

WRITTEN = """
data:
  init_args: {workers: {num: 1}, augmentation: {cutout: 3, mixup: 0.5}}
"""


def settings(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        main([*options, "--print_config"])
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    return found


def test_an_option_of_a_group_keeps_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(WRITTEN)
    found = settings(capsys, "--data.augmentation.cutmix", "1", "--data.workers.timeout_s", "9")
    assert Augmentation(**found["augmentation"]) == Augmentation(2, cutmix=1.0, extra=[])  # The value of digits.yaml.
    assert Workers(**found["workers"]) == Workers(timeout_s=9)
    found = settings(capsys, "--config", str(tmp_path / "own.yaml"), "--data.augmentation.horizontal_flip", "true")
    expected = Augmentation(2, cutout=3, mixup=0.5, horizontal_flip=True, extra=[])
    assert Augmentation(**found["augmentation"]) == expected
    assert Workers(**found["workers"]) == Workers(num=1)
