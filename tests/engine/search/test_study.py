"""A study is continued by sweeps with its settings alone; optuna-dashboard shows its links to MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage

from project.engine.search.space import SearchSpace
from project.engine.search.study import introduce_study, open_study, run_address, set_run

SPACE = SearchSpace({"val/accuracy": "maximize"}, {"lr": FloatDistribution(0, 1)}, None, None, Path("lr.yaml"), "")
SETTINGS = {"search.lr": "0..1", "model.net": "CNN", "model.net.depth": "4", "data.batch_size": "32", "seed": "0"}


@pytest.mark.parametrize(
    ("removed", "changed", "message"),
    [
        ("", {"seed": "1"}, "has seed 0, but this sweep has 1; name another study with --study, or keep the options"),
        ("model.net.depth", {"model.net": "MLP", "model.net.width": "9"}, "has model.net CNN, but this sweep has MLP;"),
        ("seed", {"search.seed": "0..9"}, "has search.seed nothing, but this sweep has 0..9;"),
        ("", {"data.fast": "None", "seed": "1"}, "has data.fast nothing, but this sweep has None;"),
        ("", {"groups.model": "MLP", "model": "nets.MLP"}, "has model nothing, but this sweep has MLP;"),
    ],
)
def test_other_settings_are_refused_with_the_reason_and_the_remedy(
    removed: str, changed: Mapping[str, str], message: str
) -> None:
    storage = InMemoryStorage()
    assert open_study(storage, "s", SPACE, SETTINGS).user_attrs == {}  # A dashboard shows these.
    open_study(storage, "s", SPACE, SETTINGS)
    now = {key: value for key, value in (SETTINGS | changed).items() if key != removed}
    with pytest.raises(ValueError, match=r"^--study: s ") as refused:
        open_study(storage, "s", SPACE, now)
    assert message in str(refused.value)


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
