import io
import os
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import as_nobody
from pictures import image_folder, picture
from PIL import Image

from project.data import ImageFolder
from project.engine.runtime.places import cache_of

pytestmark = pytest.mark.usefixtures("other_folder")

BAD = ("truncated.jpg", "truncated.png", "empty.jpg", "text.jpg", "bomb.png", "nowhere.jpg", "pipe.jpg")


def folder_with_bad_images(root: Path) -> None:
    for split, count in (("train", 40), ("val", 8)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture().save(root / split / name / f"{index}.jpg")
    data = (root / "train/a/0.jpg").read_bytes()
    (root / "train/a/truncated.jpg").write_bytes(data[: len(data) // 2])
    packed = io.BytesIO()
    picture().save(packed, "PNG")
    (root / "train/b/truncated.png").write_bytes(packed.getvalue()[: packed.tell() // 2])
    (root / "train/a/empty.jpg").write_bytes(b"")
    (root / "train/b/text.jpg").write_text("<html>not found</html>")
    Image.new("1", (20_000, 20_000)).save(root / "train/a/bomb.png")
    (root / "train/b/nowhere.jpg").symlink_to("nowhere")
    os.mkfifo(root / "train/b/pipe.jpg")  # Opening it waits for a writer.


def test_bad_images_are_all_listed(tmp_path: Path) -> None:
    folder_with_bad_images(tmp_path)
    data = ImageFolder(root=str(tmp_path))
    with pytest.raises(ValueError, match=r"data.on_bad_image: 7 of 87 files in .*train cannot be decoded \(listed in"):
        data.setup("fit")
    listed = (cache_of(tmp_path) / "train-bad.txt").read_text().splitlines()
    assert {Path(line.split(": ")[0]).name for line in listed} == set(BAD)
    with pytest.raises(ValueError, match=r"data.max_bad_percent: got 1.0, but 7 of 87"):
        ImageFolder(root=str(tmp_path), on_bad_image="skip").setup("fit")


def test_an_unreadable_file_is_not_reported_as_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        monkeypatch.chdir(name)
        denied = image_folder(Path(name, "images"), 4) / "train/a/0.jpg"
        denied.chmod(0)
        Path("images").chmod(0o777)
        with as_nobody(), pytest.raises(OSError, match=r"1 of 4 files cannot be read; .*0\.jpg"):
            ImageFolder(root="images", on_bad_image="skip").setup("fit")
        denied.chmod(0o644)
        with as_nobody():
            data = ImageFolder(root="images")
            data.setup("fit")
            assert len(data.splits["train"]) == 4
        monkeypatch.undo()


def test_every_file_in_a_class_folder_is_checked_unless_it_is_hidden(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 4)
    for name in (
        "train/a/nested/deep.JPG",
        "train/a/.ipynb_checkpoints/0.jpg",
        "train/a/.hidden.jpg",
        "../linked/1.png",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture().save(path)
    (root / "train/b/link").symlink_to(tmp_path / "linked")
    Path(os.fsdecode(os.fsencode(root / "train/b") + b"/caf\xe9.jpg")).write_bytes(  # Not UTF-8.
        (root / "train/a/0.jpg").read_bytes()
    )
    data = ImageFolder(root=str(root), image_size=16)
    data.setup("fit")
    assert data.splits["train"].targets.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_skipped_images_are_counted_and_not_loaded(tmp_path: Path) -> None:
    folder_with_bad_images(tmp_path)
    data = ImageFolder(root=str(tmp_path), on_bad_image="skip", max_bad_percent=10, cache="off")
    data.setup("fit")
    assert data.skipped == {"train": 7}
    assert len(data.splits["train"]) == 80
    assert data.fetch("train", torch.arange(80))[0].shape == (80, 3, 64, 64)
