"""Security: loaded files run no code, no process listens beyond this machine, and secrets are not logged."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import listening
from mlflow import MlflowClient
from servers import serving

from project.engine.checkpoints.durable import DurableCheckpointIO
from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.secrets import redact_options
from project.fit import main


class Canary:
    """An object that creates a file when its pickle is loaded as code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_with_code_in_it_runs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    song = tmp_path / "song"
    torch.save({"state_dict": {}}, tmp_path / "best-epoch000.ckpt")
    os.utime(tmp_path / "best-epoch000.ckpt", (1, 1))
    torch.save({"state_dict": {}, "callbacks": Canary(song)}, tmp_path / "last.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "best-epoch000.ckpt"
    assert "last.ckpt; an older one is used" in caplog.text
    with pytest.raises(Exception, match="Weights only load failed"):
        DurableCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not song.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.net", "os.system"], "Importing 'os.system' is not allowed"),
        (["--model.net.class_path", "subprocess.Popen"], "Importing 'subprocess.Popen' is not allowed"),
        (["--model.net", "collections.OrderedDict"], "expected Module: its class"),
        (["--model.optimizer", "torch.nn.Linear"], "expected Optimizer: its class"),
        (["--model.lr_schedule.class_path", "torch.nn.Linear"], "expected LRScheduler: its class"),
        (["--data.class_path", "subprocess.Popen"], "subprocess.Popen"),
        (["--trainer.callbacks", "subprocess.Popen"], "got 'subprocess.Popen'; expected one of"),
        (["--trainer.callbacks", "torch.nn.Linear"], "Callback"),
        (["--trainer.logger", "collections.OrderedDict"], "Logger"),
    ],
)
def test_a_class_path_of_another_type_is_refused(
    options: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err


def test_a_configuration_with_code_in_it_runs_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("seed_everything: !!python/object/apply:os.system ['touch song']\n")
    with pytest.raises(SystemExit, match="2"):
        main(["--config", "run.yaml"])
    assert "is not valid YAML" in capsys.readouterr().err
    assert not Path("song").exists()


def test_an_artifact_with_code_in_it_runs_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment("digits")).info.run_id
    client.log_text(run_id, "seed_everything: !!python/object/apply:os.system ['touch song']\n", "config.yaml")
    store.checkpoint_folder(run_id).mkdir(parents=True)
    torch.save(
        {"state_dict": {}, "callbacks": Canary(workplace / "song")}, store.checkpoint_folder(run_id) / "last.ckpt"
    )
    for damaged in ("has no valid checkpoint", "is not valid YAML"):
        with pytest.raises(SystemExit, match="2"):
            main(["--resume", run_id])
        assert damaged in capsys.readouterr().err
        ours = {"state_dict": {}, "callbacks": {"RunCheckpoint": {"validated_metrics": {}}}}
        torch.save(ours, store.checkpoint_folder(run_id) / "last.ckpt")
    assert not Path("song").exists()


@pytest.mark.faults
def test_the_ui_listens_on_loopback_only(workplace: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    with serving("project.ui", folder=workplace, environment=environment) as ui:
        assert listening(ui.pid) <= {"127.0.0.1", "::1"}


def test_secrets_are_stored_nowhere(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "hunter2hunter2")
    monkeypatch.setenv("STORE", "postgresql://me:pass-word@host/db")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    logger = MLflowLogger("faults", "run root=s3://me:pass-word@host")
    command = "fit --data.root s3://me:hunter2hunter2@host/x --x hunter2hunter2 --data.api_key=pass-word"
    logger.start(client, {"command": " ".join(redact_options(command.split()))})
    logger.log_hyperparams({"data.root": "https://me:pass-word@host/x", "data.token": "abc", "model.net.tokens": 3})
    logger.log_text(
        "uri: postgresql://me:a@pass-word@host/db?token=pass-word and hunter2hunter2, pass-word", "config.yaml"
    )
    logger.end("FINISHED")
    run = client.get_run(str(logger.version))
    text = Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
    everything = json.dumps(run.to_dictionary()) + text
    assert "hunter2" not in everything
    assert "pass-word" not in everything
    assert run.data.params["data.root"] == "https://me:***@host/x"
    assert run.data.params["data.token"] == "***"
    assert run.data.params["model.net.tokens"] == "3"
