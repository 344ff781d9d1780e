"""What a fit and a sweep leave in the store for a person who reads it."""

from pathlib import Path

import pytest
from conftest import Fit
from tiny import TINY

from project.fit import main

SHORT = [*TINY, "--max_epochs=2"]
STOPPING = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"


def test_parameters_have_values_and_name_classes_shortly(workplace: Path) -> None:
    main([*SHORT, "--trainer.max_epochs=1", STOPPING, "--trainer.callbacks.monitor=val/loss"])
    run = Fit(workplace, 0, "").run
    assert run.info.run_name == "TinyNet batch_size=4 crop_padding=0 callbacks=EarlyStopping…"
    params = run.data.params
    assert [key for key, value in params.items() if value == "None"] == []
    assert params["trainer.callbacks"].startswith("EarlyStopping(monitor=val/loss, min_delta=0.0,")
    assert "trainer.max_time: null" in Fit(workplace, 0, "").text("config.yaml").replace("\n  ", "\ntrainer.")


def test_a_user_may_name_the_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"mlflow.runName": "my best"}')
    main([*SHORT, "--trainer.max_epochs=1"])
    assert Fit(workplace, 0, "").run.info.run_name == "my best"
