"""What optuna-dashboard shows of a study."""

import json
from pathlib import Path

import optuna
import pytest

from project.engine.search.dashboard import introduce_study, run_address, set_run


def notes(study: optuna.Study) -> str:
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return json.dumps({key: text for key, text in attributes.items() if "note_str" in key})


def test_a_study_has_names_of_metrics_and_links_to_its_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    introduce_study(study, ["val/accuracy", "val/loss"], "abc", "python -m project.sweep --search cnn")
    assert study.metric_names == ["val/accuracy", "val/loss"]
    trial = study.ask()
    set_run(trial, "def")
    assert study.trials[0].user_attrs == {"run_id": "def"}
    for text in ("maximize val/accuracy, minimize val/loss", "--search cnn", "/#/runs/abc?", "/#/runs/def?"):
        assert text in notes(study)
    assert run_address("abc").startswith("http://127.0.0.1:5000/#/runs/abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org/mlflow/")
    assert run_address("abc") == "https://example.org/mlflow/#/runs/abc?workflowType=machine_learning"
