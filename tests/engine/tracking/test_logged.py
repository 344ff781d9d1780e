"""What a fit leaves in the store for a person who reads it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Fit, copy_store
from tiny import COMPLETE, TINY

from project.engine.cli.command_line import CommandLine
from project.engine.tracking.description import TAG
from project.engine.tracking.names import score_text
from project.fit import main

STOPPING = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/loss",
            "--trainer.callbacks+=lightning.pytorch.callbacks.Timer"]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fit]:
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        copy_store(folder)
        main([*COMPLETE, "--max_epochs=2", *STOPPING])
        yield Fit(folder, 0, "")


def test_parameters_have_values_and_short_names(done: Fit) -> None:
    assert done.run.info.run_name == "TinyNet batch_size=4 crop_padding=0 max_epochs=2…"
    params = done.run.data.params
    assert [key for key, value in params.items() if value == "None"] == []
    assert params["trainer.callbacks"].startswith("EarlyStopping(monitor=val/loss, min_delta=0.0,")
    assert done.run.info.status == "FINISHED"
    assert "max_time: null" in done.text("config.yaml")
    assert "interval: step" in done.text("config.yaml")  # an enum


def test_the_run_describes_its_result_and_the_next_commands(done: Fit) -> None:
    run = done.run
    note = run.data.tags[TAG]
    assert note.startswith("**TinyNet** (ImageClassifier, 130 parameters), trained on **tiny** with 1 CPU, single, 32")
    assert f"| test/accuracy | &emsp;{score_text(run.data.metrics['test/accuracy'])} |" in note
    assert "**. Baseline: 0.5000 by " in note
    assert f"| best/val/loss | &emsp;{score_text(run.data.metrics['best/val/loss'])} |" in note
    assert "tiny: 2 classes, " in note
    assert f"\n# evaluate\npython -m project.evaluate {run.info.run_id}\n" in note
    assert f"\n# predict\npython -m project.predict {run.info.run_id} DIR\n" in note
    (resume,) = re.findall(r"\n# resume\n(.*)\n", note)
    words = shlex.split(resume)
    assert words[:3] == ["python", "-m", "project.fit"]
    assert CommandLine.parse(words[3:]).resume == run.info.run_id


def test_the_experiment_describes_its_data_and_metric(done: Fit) -> None:
    note = done.client.get_experiment(done.run.info.experiment_id).tags[TAG]
    assert "`val/accuracy (max)`" in note
    assert "tiny: 2 classes" in note


def test_the_model_has_its_scores_classes_and_dataset(done: Fit) -> None:
    run = done.run
    order = [{"field_name": "metrics.test/accuracy", "ascending": False, "dataset_name": "tiny"}]
    (model,) = done.client.search_logged_models([run.info.experiment_id], order_by=order)
    assert model.name == "tiny-TinyNet"
    (dataset,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    found = {one.key: (one.value, one.dataset_name, one.dataset_digest) for one in model.metrics or []}
    assert set(found) == {"test/accuracy", "test/loss", "best/val/accuracy", "best/val/loss"}
    assert found["test/accuracy"] == (run.data.metrics["test/accuracy"], "tiny", dataset.digest)
    assert model.tags["class_names"] == "dark,bright"
    assert model.tags["git.commit"] == run.data.tags["git.commit"]
    assert model.tags["dataset"] == f"tiny ({dataset.digest})"
    assert "mlflow models serve -m model --env-manager local" in model.tags[TAG]
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert loaded.metadata.signature.outputs.input_names() == ["class", "probability", "probabilities"]
    (answer,) = loaded.predict(pd.DataFrame({"pixels": [np.full((9, 11), 255)]}))
    assert set(answer["probabilities"]) == {"dark", "bright"}


def test_a_person_may_name_the_run_and_describe_the_experiment(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"mlflow.runName": "my best"}')
    found = Fit(workplace, 0, "")
    experiment = found.client.create_experiment("tiny", tags={TAG: "mine"})
    main([*TINY, "--max_epochs=1"])
    assert found.run.info.run_name == "my best"
    assert found.client.get_experiment(experiment).tags[TAG] == "mine"
