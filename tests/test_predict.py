import io
import os
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from commands import Command
from conftest import ROOT, Fit, as_nobody, at_copy, clean_environment, made_once
from photos import FOLDER, train_on_photos, write_photos
from PIL import Image
from pyarrow import csv, parquet
from runs import ExampleRuns, Runs
from tiny import Many

from project.engine.inference.inputs import named_files
from project.engine.inference.options import parse_prediction
from project.engine.inference.tables import write_table
from project.engine.loading.square import to_grey
from project.engine.runtime.failure import needs_traceback
from project.evaluate import main as evaluate
from project.fit import main as fit
from project.predict import main as predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of mixed sizes and kinds, and a run on them, without its training images."""
    original, _ = made_once(tmp_path_factory, "photos", train_on_photos)
    folder = tmp_path_factory.mktemp("photos")
    with at_copy(original, folder):
        shutil.rmtree("data/train")
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained}/mlruns/mlflow.db")
    return trained


def predicted(*argv: str, code: int = 0) -> dict[str, list[Any]]:
    output = Path("predicted.csv")
    argv = (*argv, "--output", str(output))
    if code:
        with pytest.raises(SystemExit) as end:
            predict(argv)
        assert end.value.code == code
    else:
        predict(argv)
    columns: dict[str, list[Any]] = csv.read_csv(output).to_pydict()
    return columns


def evaluated(folder: Path) -> dict[str, list[Any]]:
    return evaluated_run(Fit(folder, 0, "").run.info.run_id)


def evaluated_run(run_id: str) -> dict[str, list[Any]]:
    path = mlflow.MlflowClient().download_artifacts(run_id, "eval/test/predictions.parquet")
    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    return columns


def test_a_file_has_the_same_probabilities_as_in_the_evaluation(place: Path) -> None:
    found, expected = predicted("latest", "data/test", "--top_k=2"), evaluated(place)
    assert [Path(path).parent.name for path in found["path"]] == expected["true_class"]
    assert found["class"] == expected["class"]
    np.testing.assert_array_equal(np.float32(found["probability"]), np.float32(expected["probability"]))
    assert expected["path"] == found["path"]


@pytest.mark.faults
@pytest.mark.parametrize(
    "options", [["--data.cache=off"], ["--data.cache=off", "--data.augmentation.random_resized_crop=0.5"]]
)
def test_crops_and_caches_of_the_training_do_not_matter(options: list[str], workplace: Path) -> None:
    write_photos(workplace / "data")
    fit([*FOLDER, *options, "--model.class_path=tiny.TinyTask", "--trainer.limit_train_batches=1"])
    evaluate(["latest"])
    found, expected = predicted("latest", "data/test"), evaluated(workplace)
    np.testing.assert_array_equal(np.float32(found["probability"]), np.float32(expected["probability"]))


def test_the_served_model_gives_the_same_probabilities(place: Path) -> None:
    expected = evaluated(place)
    (output,) = Fit(place, 0, "").run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    assert model.metadata.metadata["class_names"] == ["blue", "red"]
    served = model.predict(pd.DataFrame({"image": [Path(path).read_bytes() for path in expected["path"]]}))
    assert [answer["class"] for answer in served] == expected["class"]
    np.testing.assert_allclose([answer["probability"] for answer in served], expected["probability"], rtol=1e-5)


def test_a_file_of_16_bits_is_predicted_like_its_copy_of_8_bits(place: Path) -> None:
    Path("depths").mkdir(exist_ok=True)
    with Image.open("data/test/red/1.png") as image:
        image.save("depths/8.png")
        Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save("depths/16.png")
    eight, sixteen = predicted("latest", "depths")["probability"]
    assert eight == pytest.approx(sixteen, rel=1e-5)


@pytest.mark.faults
def test_darker_data_of_16_bits_are_evaluated_like_predicted(workplace: Path) -> None:
    draw = np.random.default_rng(0)
    for root, most in (("bright", 4096), ("dark", 1024)):
        for split, label, number in product(("train", "test"), ("blue", "red"), range(4)):
            file = Path(root, split, label, f"{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, most, (32, 32)).astype(np.uint16)).save(file)
    fit([*FOLDER, "--data.root=bright", "--model.class_path=tiny.TinyTask", "--data.batch_size=2"])
    evaluate(["latest", "--data=image_folder", "--data.root=dark"])
    run_id = Fit(workplace, 0, "").run.info.run_id
    path = mlflow.MlflowClient().download_artifacts(run_id, "eval/dark/test/predictions.parquet")
    expected = predicted("latest", "dark/test")["probability"]
    assert parquet.read_table(path)["probability"].to_pylist() == pytest.approx(expected, rel=1e-5)


def test_a_bad_file_is_a_row_and_the_exit_code(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("data/test", "mixed")
    good = Path("mixed/red/0.jpg").read_bytes()
    Path("mixed/red/0a.jpg").write_bytes(good[: len(good) // 2])
    Path("mixed/red/0b.jpg").write_bytes(b"")
    Path("mixed/red/0c.png").write_text("text")
    table = predicted("latest", "mixed", code=1)
    bad = [Path(path).name for path, error in zip(table["path"], table["error"], strict=True) if error]
    assert bad == ["0a.jpg", "0b.jpg", "0c.png"]
    assert len(table["path"]) == 15
    assert [table["class"][place] for place, error in enumerate(table["error"]) if error] == ["", "", ""]
    message = capsys.readouterr().err
    assert "3 of 15 files cannot be read: mixed/red/0a.jpg: " in message
    whole = evaluated(place)["probability"]
    # The good files have other neighbours in their batches, which may change the last digit.
    assert [p for p in table["probability"] if p is not None] == pytest.approx(whole, rel=1e-5)
    shutil.rmtree("mixed")


def test_a_name_that_is_not_unicode_is_escaped_in_the_table(place: Path) -> None:
    shutil.copytree("data/test/red", "names")
    Path("names/0.jpg").rename(os.fsdecode(b"names/\xff.jpg"))
    table = predicted("latest", "names")
    assert max(table["path"]) == "names/\\xff.jpg"
    assert None not in table["probability"]
    shutil.rmtree("names")


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_on_a_full_disk_is_named_without_a_traceback(name: str, tmp_path: Path) -> None:
    (file := tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"^cannot write {file} \(No space left on device\)$") as refused:
        write_table({"path": ["a"]}, file)
    assert not needs_traceback(refused.value)


@pytest.mark.faults
def test_rows_that_cannot_be_written_are_an_error(place: Path) -> None:
    shared = clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    shared["PYTHONPATH"] = f"{ROOT}:{ROOT}/tests"
    program = (
        "import os, runpy, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
        "sys.argv[1:] = ['latest', 'data/test/red']; runpy.run_module('project.predict', run_name='__main__')"
    )
    command = Command("-c", program, folder=place, environment=shared)
    errors, _ = command.communicate()
    assert command.wait() == 1
    assert errors.endswith("standard output cannot be written (No space left on device); the rest is dropped\n")


@pytest.mark.faults
def test_three_bad_files_among_ten_thousand_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many").mkdir()
    bad = {17: b"", 5000: b"text", 9999: Path("data/test/red/0.jpg").read_bytes()[:200]}
    for number in range(10_000):
        file = Path(f"many/{number:04}.jpg")
        file.write_bytes(bad[number]) if number in bad else file.hardlink_to(Path("data/test/red/0.jpg").absolute())
    table = predicted("latest", "many", code=1)
    assert [number for number, error in enumerate(table["error"]) if error] == sorted(bad)
    assert sum(probability is not None for probability in table["probability"]) == 9_997
    assert "3 of 10,000 files cannot be read: many/0017.jpg: " in capsys.readouterr().err
    shutil.rmtree("many")


def test_files_are_named_in_five_ways(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of = [str(path) for path in named_files(["data/test/red"])]
    assert [Path(path).name for path in all_of] == ["0.jpg", "1.png", "2.jpg", "3.png", "4.jpg", "5.png"]
    assert [str(path) for path in named_files(["data/test/red/*.jpg"])] == all_of[::2]
    Path("list.csv").write_text("label,path\nred,data/test/red/4.jpg\nred,data/test/red/0.jpg\n")
    assert [str(path) for path in named_files(["list.csv", all_of[1]])] == [all_of[4], all_of[0], all_of[1]]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(all_of)))
    assert predicted("latest", "-")["path"] == all_of
    predict(["latest", "data/test/red", "--output=out.parquet", "--top_k=9"])
    table = parquet.read_table("out.parquet")
    assert table["path"].to_pylist() == all_of
    assert table.column_names == ["path", "class", "probability", "class_2", "probability_2", "error"]
    sums = np.add(*(table[name].to_numpy() for name in ("probability", "probability_2")))
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_the_images_of_a_folder_are_those_of_a_training(tmp_path: Path) -> None:
    for name in ("pool/cat/a.png", "pool/cat/deep/b.png", "pool/cat/.hidden/c.png", "pets/dog/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pets/cat").symlink_to("../pool/cat")
    Image.new("L", (2, 2)).save(tmp_path / "pets/dog/a", "PNG")
    (tmp_path / "pets/dog/README").write_text("text")
    (tmp_path / "pool/cat/deep/up").symlink_to("..")
    (tmp_path / "pets/self").symlink_to(".")
    (tmp_path / "pets/dog/e.png").symlink_to("nowhere.png")
    found = named_files([str(tmp_path / "pets")])
    assert [str(path.relative_to(tmp_path / "pets")) for path in found] == [
        "cat/a.png", "cat/deep/b.png", "dog/a", "dog/d.png", "dog/e.png"
    ]  # fmt: skip
    assert named_files([str(tmp_path / "pets/dog/e.png")]) == [tmp_path / "pets/dog/e.png"]


def test_a_folder_that_cannot_be_listed_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as name:  # Other users cannot enter pytest's folders.
        Path(name).chmod(0o755)
        (Path(name) / "closed").mkdir(mode=0)
        with as_nobody(), pytest.raises(PermissionError, match="closed"):
            named_files([name])


@pytest.mark.faults
def test_tta_averages_the_probabilities_of_the_image_and_its_mirror(place: Path) -> None:
    Path("views").mkdir(exist_ok=True)
    with Image.open("data/test/red/3.png") as image:
        square = image.resize((32, 32))
        square.save("views/a.png")
        square.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("views/b.png")

    def red(*options: str) -> list[float]:
        table = predicted("latest", "views", *options)
        return [p if c == "red" else 1 - p for c, p in zip(table["class"], table["probability"], strict=True)]

    plain, averaged = red(), red("--tta")
    assert plain[0] != plain[1]
    assert averaged == pytest.approx([sum(plain) / 2] * 2, rel=1e-5)


def test_a_grey_model_takes_grey_and_colour_files(runs: Runs) -> None:
    for number, image in enumerate(Many().load("test").images):
        grey = Image.fromarray(image[0].numpy())
        (grey.convert("RGB") if number % 2 else grey).save(f"{number:02}.png")
    found, expected = predicted(runs.good, "??.png"), evaluated_run(runs.good)
    np.testing.assert_array_equal(np.float32(found["probability"]), np.float32(expected["probability"]))
    (output,) = mlflow.MlflowClient().get_run(runs.good).outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    answers = served.predict(pd.DataFrame({"image": [Path(path).read_bytes() for path in found["path"]]}))
    np.testing.assert_allclose([answer["probability"] for answer in answers], expected["probability"], rtol=1e-5)


def test_grey_is_that_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(to_grey(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0, 0].numpy(), expected)


def test_bad_input_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nothing").mkdir(exist_ok=True)
    Path("wrong.csv").write_text("file\nx.jpg\n")
    os.mkfifo("pipe.jpg")
    for argv, message in [
        (["unknown", "data/test"], "got run 'unknown'"),
        (["latest"], "PATH: got nothing"),
        (["latest", "missing.jpg"], "missing.jpg does not exist"),
        (["latest", "pipe.jpg"], "pipe.jpg is neither a file nor a folder"),
        (["latest", "missing/*.jpg"], "missing/*.jpg does not exist"),
        (["latest", "nothing"], "nothing contains no image"),
        (["latest", "wrong.csv"], "expected a column path; it has file"),
        (["latest", "data/test", "--output=x.txt"], "it must end in .csv, .parquet"),
        (["latest", "data/test", "--output=nowhere/x.csv"], "the folder nowhere does not exist"),
        (["latest", "data/test", "--topk=3"], "did you mean --top_k?"),
        (["latest", "data/test", "--top_k=0"], "--top_k: got 0; it must be 1 or more"),
        (["latest", "data/test", "--precision=17"], "got '17'"),
        (["latest", "data/test", "--accelerator=tpu"], "got tpu"),
        (["latest", "data/test", "--workers=-1"], "must be 0 or more"),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            predict(argv)
        error = capsys.readouterr().err
        assert end.value.code == 2, argv
        assert message in error
        assert len(error.splitlines()) <= 3


def test_the_output_on_a_terminal_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert parse_prediction(["latest", "a.jpg"]).output == Path("predictions.csv")
    Path("predictions.csv").mkdir()
    with pytest.raises(SystemExit, match="2"):  # before the images are predicted
        parse_prediction(["latest", "a.jpg"])


def test_a_task_without_predictions_says_so(example_runs: ExampleRuns, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (32, 32)).save("a.png")
    for run_id, message in [
        (example_runs.segmentation, "Segmentation does not declare predictions"),
        (example_runs.tabular, "not a task on images"),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            predict([run_id, "a.png"])
        assert message in capsys.readouterr().err
