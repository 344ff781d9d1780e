"""The description of data: counts, sizes of files, and samples that occur more than once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from project.data import Digits
from project.describe import main


def write(path: str, seed: int, side: int = 16) -> None:
    """Write a random image; the same seed and side give the same pixels, as PNG or BMP."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eight images of two classes in train, four in test: one repeated, one in both splits, one with two classes."""
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        write(f"pets/train/cat/{index}.png", index)
        write(f"pets/train/dog/{index}.png", 10 + index)
        write(f"pets/val/dog/{index}.png", 30 + index)
    write("pets/train/cat/again.bmp", 0)
    write("pets/test/cat/leaked.bmp", 1)
    write("pets/test/cat/mistaken.png", 12)
    write("pets/test/dog/new.png", 20)
    write("pets/test/dog/large.png", 21, side=40)
    return ["--data=image_folder", "--data.root=pets", "--data.image_size=16"]


def rows(output: str) -> dict[str, list[str]]:
    """Return the cells of the tables by the first cell of their rows; the last table wins."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    return {first: rest for first, *rest in lines}


@pytest.mark.parametrize(
    "options",
    [[], ["--data.cache=off"], ["--data.augmentation.random_resized_crop=0.5"]],
    ids=["cached", "decoded", "trained-on-random-crops"],
)
def test_copies_within_and_between_splits_are_counted(
    options: list[str], folder: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*folder, *options])
    output = capsys.readouterr().out
    found = rows(output)
    assert found["train"] == ["9", "1 (11.1%)", "", "", "1 (11.1%)"]
    assert found["val"] == ["4", "0", "0", "", "0"]
    assert found["test"] == ["4", "0", "2 (50.0%)", "0", "1 (25.0%)"]
    assert (found["class cat"], found["class dog"]) == (["5", "0", "2"], ["4", "4", "2"])
    assert "2 of 4 samples of test are also in train" in output
    assert "pets/train/cat/1.png = pets/test/cat/leaked.bmp" in output
    assert "files of test, height x width: 16x16 to 40x40, median 16x16" in output
    assert "files of train, height x width: 16x16\n" in output
    assert not Path("mlruns/mlflow.db").exists()


def test_a_part_of_train_for_validation_is_compared_by_its_own_files(
    folder: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        Path(f"pets/val/dog/{index}.png").unlink()
    Path("pets/val/dog").rmdir()
    Path("pets/val").rmdir()
    main([*folder, "--data.val_fraction=0.5"])
    names = [line.split(" = ") for line in capsys.readouterr().out.splitlines() if " = " in line]
    assert sorted(sorted(Path(name).name for name in pair) for pair in names) == [
        ["0.png", "again.bmp"],
        ["1.png", "leaked.bmp"],
        ["2.png", "mistaken.png"],
    ]


def test_data_without_copies_say_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data=digits", "--data.batch_size=500"])
    output = capsys.readouterr().out
    assert output.endswith("no sample occurs twice\n")
    assert [rows(output)[split][0] for split in ("train", "val", "test")] == ["1,293", "144", "360"]
    (digits := Digits()).setup("fit")
    images = torch.cat([images for images, _ in digits.samples("test")])
    assert torch.equal(images, digits.fetch("test", torch.arange(360))[0])


def test_other_tasks_and_plain_modules_are_described(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config", str(ROOT / "examples/segmentation.yaml")])
    assert rows(capsys.readouterr().out)["test"][-1] == "0"
    main(["--config", str(ROOT / "examples/tabular.yaml")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("does not declare what its splits contain")
    assert lines[1].startswith("samples were not compared")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model=cnn"], "--model: only data are described"),
        (["--data=imagenet"], "--data"),
        (["--data=digits", "--data.batch_sze=4"], "did you mean --data.batch_size?"),
        (["--data=image_folder", "--data.root=nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(options)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error and len(error.splitlines()) <= 3
