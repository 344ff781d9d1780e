import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import ROOT, at, at_copy, made_once
from photos import train_on_photos
from PIL import Image
from runs import ExampleRuns, Runs
from servers import serving
from test_predict import predicted
from tiny import TinyNet
from torch import Tensor

import project
from project.engine.inference.export_job import open_export
from project.export import main as export

NAMES = ["blue", "red"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of mixed sizes and kinds, and a run on them."""
    original, _ = made_once(tmp_path_factory, "photos", train_on_photos)
    folder = tmp_path_factory.mktemp("photos")
    with at_copy(original, folder):
        return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained}/mlruns/mlflow.db")
    return trained


def exported(*options: str) -> Path:
    """Return the exported model, whose name is new."""
    path = Path(f"exported{''.join(options[1:2]) and '.' + options[1]}")
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    export(["latest", *options, f"--output={path}"])
    return path


def sent(port: str, photos: list[Path], folder: Path, key: str = "dataframe_records") -> Any:
    """Send what docs/after_training.md sends, with a row for each photo."""
    command = re.search(
        r"^echo '\{\"dataframe_records.*?/invocations$", (ROOT / "docs/after_training.md").read_text(), re.M | re.S
    )
    assert command is not None
    (row,) = re.findall(r"\{\"image.*?\}", command[0])
    rows = ", ".join(row.replace("photo.jpg", str(photo)) for photo in photos)
    line = command[0].replace(row, rows).replace("5001", port).replace("dataframe_records", key)
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.faults  # The server imports MLflow and torch, which takes ten seconds.
def test_the_server_answers_the_request_of_the_readme(place: Path, model: Path, tmp_path: Path) -> None:
    table = predicted("latest", "data/test")
    photos = [Path(path).absolute() for path in table["path"]]
    command = "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"
    environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}  # It calls uvicorn.
    with serving(*command, folder=tmp_path, environment=environment) as server:
        port = server.uri.rpartition(":")[2]
        (one,) = sent(port, photos[:1], tmp_path)["predictions"]
        answers = sent(port, photos, tmp_path)["predictions"]
        assert sent(port, photos, tmp_path, "instances")["predictions"] == answers
        Path("text.jpg").write_text("text")
        refused = sent(port, [Path("text.jpg").absolute()], tmp_path)
    assert (one["class"], list(one["probabilities"])) == (table["class"][0], NAMES)
    assert [answer["class"] for answer in answers] == table["class"]
    np.testing.assert_allclose([answer["probability"] for answer in answers], table["probability"], rtol=1e-5)
    assert refused["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "row 0: no image" in refused["message"]
    assert not list(tmp_path.iterdir())  # no mlflow.db


@pytest.fixture(scope="module")
def model(trained: Path) -> Path:
    """The folder of the exported MLflow model."""
    with at(trained):
        return exported().absolute()


def test_a_served_model_contains_no_code_of_this_project_and_no_pickle(model: Path) -> None:
    sources = {path.name: path.read_text() for path in model.rglob("*.py")}
    assert set(sources) == {"decode.py", "square.py", "served_images.py"}
    imports = re.compile(rf"^\s*(from|import) {project.__name__}\b", re.MULTILINE)
    assert not [name for name, text in sources.items() if imports.search(text)]
    assert not list(model.rglob("*.pkl"))


def test_an_mlflow_model_takes_files_and_pixels_and_names_what_is_wrong(place: Path, model: Path) -> None:
    served = mlflow.pyfunc.load_model(str(model))
    with Image.open("data/test/red/3.png") as image:
        pixels = np.asarray(image)
    ((file,), (array,)) = (
        served.predict(pd.DataFrame({"image": [Path("data/test/red/3.png").read_bytes()]})),
        served.predict(pd.DataFrame({"pixels": [pixels.tolist()]})),
    )
    assert file == array
    for wrong in ({"pixels": [pixels / 255]}, {"pixels": [[1, 2]]}, {"pixels": [pixels.astype(int) - 9]}, {"x": [1]}):
        with pytest.raises(mlflow.MlflowException, match="each row needs `image`"):
            served.predict(pd.DataFrame(wrong))


@pytest.mark.parametrize("format_", ["pt2", "onnx"])
def test_a_program_takes_any_number_of_images_of_any_size(
    format_: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported("--format", format_)
    found = re.search(r"largest difference to PyTorch on (\d+) images: (\S+) ", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 1
    assert float(found[2]) < 1e-4
    with Image.open("data/test/red/3.png") as image:
        pixels = np.asarray(image)
    if format_ == "onnx":
        session = onnxruntime.InferenceSession(path)
        assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == NAMES
        (output,) = session.run(None, {"images": pixels[None]})
    else:
        files = {"names": ""}
        program = torch.export.load(path, extra_files=files).module()
        assert json.loads(files["names"]) == NAMES
        output = program(torch.from_numpy(pixels.copy())[None]).numpy()
    table = predicted("latest", "data/test/red/3.png")
    assert NAMES[int(output[0].argmax())] == table["class"][0]
    assert float(output[0].max()) == pytest.approx(table["probability"][0], abs=1e-3)


def noisy(net: TinyNet, images: Tensor) -> Tensor:
    """Return logits with random numbers, so that no two programs agree."""
    logits: Tensor = net.head(images.flatten(1))
    return logits + 9 * torch.randn_like(logits)


def dependent_on_values(net: TinyNet, images: Tensor) -> Tensor:
    """Return logits by a control flow that torch.export cannot follow."""
    logits: Tensor = net.head(images.flatten(1))
    return logits if logits.sum() > 0 else 2 * logits


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (noisy, "error: largest difference to PyTorch on 4 images: "),
        (dependent_on_values, "error: the model cannot be exported as pt2: "),
    ],
)
def test_a_model_that_cannot_be_exported_is_an_error(
    forward: Callable[[TinyNet, Tensor], Tensor],
    message: str,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(TinyNet, "forward", forward)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        export([runs.good, "--format=pt2", "--output=bad.pt2"])
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(message)  # Before it, torch may log where it failed.
    assert not list(Path().glob("*bad*"))
    assert not list(Path().glob(".export-*"))


@pytest.mark.faults
def test_an_output_that_appears_meanwhile_is_not_touched(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_export(["latest", "--format=pt2", "--output=two.pt2"]) as job:
        Path("two.pt2").write_text("of another command")
        with pytest.raises(SystemExit, match="1"):
            job.write()
    assert "two.pt2 exists; another command has written it; nothing is written" in capsys.readouterr().err
    assert Path("two.pt2").read_text() == "of another command"
    assert not list(Path().glob(".export-*"))


def test_bad_input_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.pt2").touch()
    Path("text.jpg").write_text("text")
    for argv, message in [
        (["unknown"], "got run 'unknown'"),
        (["latest", "--format=tflite"], "--format: invalid choice: 'tflite' (choose from"),
        (["latest", "--output=a.onnx"], "--output: got a.onnx; its suffix must be absent"),
        (["latest", "--format=pt2", "--output=a"], "its suffix must be .pt2"),
        (["latest", "--format=pt2", "--output=there.pt2"], "there.pt2 exists"),
        (["latest", "--output=nowhere/a"], "the folder nowhere does not exist"),
        (["latest", "--images", "missing.jpg"], "missing.jpg does not exist"),
        (["latest", "--images", "text.jpg"], "text.jpg: no image"),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            export(argv)
        assert end.value.code == 2, argv
        assert message in capsys.readouterr().err


@pytest.mark.faults
def test_the_data_of_the_run_may_be_absent(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").rename("moved")
    try:
        with pytest.raises(SystemExit, match="2"):
            export(["latest", "--output=of_files"])
        assert "give --images PATH..." in capsys.readouterr().err
        export(["latest", "--output=of_files", "--images", "moved/test"])
        assert "on 12 images" in capsys.readouterr().out
    finally:
        Path("moved").rename("data")


def test_a_task_without_a_served_model_says_so(example_runs: ExampleRuns, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        export([example_runs.tabular])
    assert "is not a Task, which declares what is exported" in capsys.readouterr().err
