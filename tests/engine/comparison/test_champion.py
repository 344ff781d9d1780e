"""Registered models, and the alias that moves only to a version that a paired test finds better."""

import shutil
from math import nan
from pathlib import Path

import pytest
import runs as trained
import tiny
import yaml
from commands import free_port
from conftest import ROOT, Fit, copy_store, run_ranks
from mlflow import MlflowClient
from runs import BAD, Runs

from project.engine.cli import config_groups
from project.engine.comparison.champion import register_challenger
from project.engine.inference.registration import register_trained
from project.engine.tracking import store
from project.engine.tracking.description import TAG
from project.engine.tracking.names import score_text
from project.engine.tracking.registered import check_name
from project.engine.tracking.run_reference import find
from project.evaluate import main as evaluate
from project.fit import main as fit
from project.sweep import main as sweep

NAME = "reader of 'digits'"


def fitted(*options: str, data: str = "Many") -> str:
    return trained.fitted(f"--data=tiny.{data}", *tiny.SERVED[1:], "--max_epochs=2", *options)


def registered() -> tuple[list[str], str]:
    """Return the runs of all versions, the first version first, and the run of the champion."""
    client = store.connect()
    versions = sorted(client.search_model_versions(), key=lambda one: int(one.version))
    return [one.run_id for one in versions], client.get_model_version_by_alias(NAME, "champion").run_id


def line_of(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("version ")]
    return line


def challenged(run_id: str) -> str:
    return register_challenger(store.connect(), run_id, NAME, "test")


def test_the_alias_moves_only_to_a_better_version(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    bad, equal = runs.bad, runs.same
    evaluate([bad, "--register", NAME])
    first = line_of(capsys.readouterr().out)
    value = store.connect().get_run(bad).data.metrics["eval/test/accuracy"]
    assert first.endswith("the alias champion is set to it, because no version had it")
    assert registered() == ([bad], bad)

    good = fitted(f"--register={NAME}")
    moved = line_of(capsys.readouterr().out)
    assert moved.startswith(
        f"version 2 of {NAME} is registered (models:/{NAME}/2); the alias champion moves to it from"
    )
    assert f"against {value:.4f} is significantly better (McNemar, p " in moved
    assert registered() == ([bad, good], good)

    assert "was registered before (models:/" in (again := challenged(good))
    assert again.endswith("the alias champion marks this version already")
    assert registered() == ([bad, good], good)

    assert "is not significantly better (McNemar, p 1, not below 0.05)" in challenged(equal)
    assert "stays at version 2: eval/test/accuracy" in (worse := challenged(bad))
    assert "is significantly worse" in worse
    assert registered() == ([bad, good, equal], good)

    check_descriptions(good)
    marked, reason = find(store.connect(), f"models:/{NAME}@champion")
    assert (marked.info.run_id, reason) == (good, f"version 2 of {NAME}")
    versions = store.connect().get_logged_model(store.connect().get_run(good).outputs.model_outputs[0].model_id).tags
    assert '"version": "2"' in str(versions) or '"version": 2' in str(versions)

    store.connect().log_metric(good, "best/val/loss", nan, step=10**5)  # A model has 0 for it.
    assert find(store.connect(), f"models:/{NAME}@champion").run.info.run_id == good
    store.connect().log_metric(good, "best/val/accuracy", 2.0, step=10**6)  # A resumed training has found a better one.
    with pytest.raises(ValueError, match="has another best checkpoint than version 2"):
        find(store.connect(), f"models:/{NAME}@champion")
    with pytest.raises(ValueError, match="has no logged model of its best checkpoint"):
        challenged(good)


def check_descriptions(champion: str) -> None:
    """The champion's model, its version and the registered model have the same description."""
    client, run = store.connect(), store.connect().get_run(champion)
    note = client.get_logged_model(run.outputs.model_outputs[0].model_id).tags[TAG]
    for text in (
        f"| test/accuracy | &emsp;{score_text(run.data.metrics['test/accuracy'])} |",
        "bright",
        "project.predict",
    ):
        assert text in note
    assert run.inputs.dataset_inputs[0].dataset.digest in note
    assert client.get_model_version_by_alias(NAME, "champion").description == note
    assert client.get_registered_model(NAME).description == note


@pytest.mark.faults
def test_other_data_and_a_champion_without_predictions_keep_the_alias(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fitted(BAD)
    client = store.connect()
    client.create_registered_model(NAME)
    version = client.create_model_version(NAME, "file:///x", first).version
    client.set_registered_model_alias(NAME, "champion", version)
    second = fitted(f"--register={NAME}")
    assert f"repeat this command after: python -m project.evaluate {first}" in line_of(capsys.readouterr().out)
    evaluate([first])
    other = fitted(f"--register={NAME}", data="Others")
    assert "stays at version 1, which was evaluated on other test data" in line_of(capsys.readouterr().out)
    assert registered() == ([first, second, other], first)
    client.delete_run(first)
    evaluate([second, "--register", NAME])
    assert "is deleted; restore it" in line_of(capsys.readouterr().out)


@pytest.mark.faults
def test_a_later_checkpoint_of_its_run_is_the_next_champion(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fitted(f"--register={NAME}")
    fit(["--resume", run, "--max_epochs=3", "--register", NAME])
    assert "moves to it from version 1, an earlier checkpoint of the same run" in capsys.readouterr().out
    marked, reason = find(store.connect(), f"models:/{NAME}@champion")
    assert (marked.info.run_id, reason) == (run, f"version 2 of {NAME}")
    fit(["--resume", run, "--max_epochs=4", "--model.optimizer.lr=1e-12", "--register", NAME])
    assert "was registered before (models:/" in capsys.readouterr().out


def refused(command: object, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command(argv)  # type: ignore[operator]
    error = capsys.readouterr().err
    assert (end.value.code, len(error.splitlines())) == (2, 1)
    assert message in error


def test_what_cannot_be_registered_is_refused_before_training(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ["--data=tiny.Many", *tiny.SERVED[1:], "--max_epochs=1"]
    for argv, message in [
        ([*many, "--register"], "--register: got nothing; expected a name"),
        ([*many, "--register=a/b"], "none of @ / :"),
        ([*many, "--register=x", "--trainer.logger=false"], "--trainer.logger false"),
        ([*many, "--register=x", "--trainer.fast_dev_run=true"], "--trainer.fast_dev_run"),
        ([*many, "--register=x", "--trainer.limit_test_batches=0"], "--trainer.limit_test_batches 0"),
        (["--register=x", "--config", str(ROOT / "examples/tabular.yaml")], "declare no model for MLflow to serve"),
    ]:
        refused(fit, argv, message, capsys)
    assert not Fit(workplace, 0, "").runs
    assert not MlflowClient().search_registered_models()


def test_a_name_that_the_registry_does_not_take_is_refused(workplace: Path) -> None:
    client = MlflowClient()
    client.register_prompt("greeting", "hello")
    for name, message in [
        ("..", "give another name"),
        ("a@b", "none of @"),
        ("x" * 257, "1 to 256 characters"),
        ("greeting", "the name of a prompt"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_name(client, name)


def test_what_cannot_be_registered_is_refused_before_an_evaluation(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run_id = MlflowClient(), runs.not_evaluated
    for argv, message in [
        ([run_id, "--register=a:b"], "none of @ / :"),
        ([run_id, "--register=x", "--data=tiny.Others", "--data.image_size=8"], "leave out --data"),
        ([run_id, "--register=x", "--trainer.logger=false"], "which stores no predictions"),
    ]:
        refused(evaluate, argv, message, capsys)
    client.delete_logged_model(client.get_run(run_id).outputs.model_outputs[0].model_id)
    refused(evaluate, [run_id, "--register=x"], "has no logged model", capsys)
    assert not [name for name in client.get_run(run_id).data.metrics if name.startswith("eval/")]
    assert not client.search_registered_models()


def test_a_store_that_is_lost_after_training_leaves_the_command(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = runs.not_evaluated
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit) as end:
        register_trained(run_id, "x")
    assert end.value.code == 1
    assert f"register it with: python -m project.evaluate {run_id} --register x" in capsys.readouterr().err


@pytest.mark.faults
def test_a_sweep_registers_its_best_trial(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(config_groups.CONFIGS, workplace / "configs")
    monkeypatch.setattr(config_groups, "CONFIGS", workplace / "configs")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}")
    choices = {"model.optimizer.lr": {"type": "categorical", "choices": [1e-9, 2e-3]}}
    space = {"metric": "val/accuracy", "direction": "maximize", "space": choices,
             "sampler": {"type": "GridSampler", "search_space": {"model.optimizer.lr": [1e-9, 2e-3]}}}  # fmt: skip
    file = workplace / "configs/search/mine.yaml"
    file.write_text(yaml.safe_dump({**space, "metric": ["val/accuracy", "val/loss"], "direction": ["maximize"] * 2}))
    options = ["--search=mine", "--data=tiny.Many", *tiny.SERVED[1:], "--max_epochs=2", "--n_trials=2"]
    refused(sweep, [*options, f"--register={NAME}"], "no trial is the best one", capsys)
    file.write_text(yaml.safe_dump(space))
    refused(sweep, [*options, "--register=a/b"], "none of @ / :", capsys)
    with pytest.raises(SystemExit) as end:
        sweep([*options, f"--register={NAME}"])
    output = capsys.readouterr().out
    assert end.value.code == 0, output
    trials = [run for run in Fit(workplace, 0, "").runs if "trial" in run.data.tags]
    best = max(trials, key=lambda run: float(run.data.metrics["best/val/accuracy"])).info.run_id
    assert registered() == ([best], best)
    assert line_of(output).startswith(f"version 1 of {NAME} is registered")


@pytest.mark.faults
def test_two_processes_register_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    options = ["--data=tiny.Many", *tiny.SERVED[1:], "--max_epochs=1", f"--register={NAME}"]
    path = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}"}
    output = run_ranks("project.fit", *options, "--strategy=ddp", "--devices=2", folder=tmp_path, environment=path)
    run_id = Fit(tmp_path, 0, "").run.info.run_id
    assert registered() == ([run_id], run_id)
    assert line_of(output).startswith(f"version 1 of {NAME} is registered")
    output = run_ranks("project.evaluate", run_id, "--register", NAME, folder=tmp_path, environment=path)
    assert "was registered before" in line_of(output)
    assert registered() == ([run_id], run_id)
