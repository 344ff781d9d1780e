"""The files of a folder that are read as images, the files that are skipped, and the messages about them."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Fit, as_nobody, fit
from PIL import Image

from project.data import ImageFolder
from project.engine.loading import Augmentation

pytestmark = pytest.mark.usefixtures("other_folder")


def write(root: Path, counts: dict[str, int]) -> Path:
    """Write images of noise, all different, to folders such as `train/cat`."""
    random = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            image(random.integers(0, 256, (12, 12, 3))).save(root / folder / f"{index:02}.png")
    return root


def image(pixels: Any) -> Image.Image:
    return Image.fromarray(np.asarray(pixels, np.uint8))


def opened(root: Path, **options: Any) -> ImageFolder:
    data = ImageFolder(root=str(root), image_size=12, **options)
    data.setup("fit")
    return data


def sizes(data: ImageFolder) -> dict[str, list[int]]:
    """Count the images of each class in each split."""
    return {split: images.targets.bincount().tolist() for split, images in data.splits.items()}


def loop(root: Path) -> None:
    (root / "train/cat/self").symlink_to(".")


def loop_from_above(root: Path) -> None:
    (root / "train/cat/up").symlink_to("..")
    (root / "train/dog/root").symlink_to(root)
    (root / "train/all").symlink_to(".")


def other_class(root: Path) -> None:
    (root / "train/cat/more").symlink_to("../dog")


def linked_files(root: Path) -> None:
    (root / "train/cat/a.png").symlink_to("00.png")
    (root / "train/cat/z.png").hardlink_to(root / "train/cat/00.png")


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (loop, "folders train/cat/self (a link)"),
        (loop_from_above, "folders all (a link), train/cat/up (a link), train/dog/root (a link)"),
        (other_class, "folders train/cat/more (a link)"),
        (linked_files, "2 files: second links to a file 2"),
    ],
)
def test_links_add_no_images(add: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    root = write(tmp_path / "pets", {"train/cat": 20, "train/dog": 10, "val/cat": 2, "val/dog": 2})
    add(root)
    data = opened(root)
    assert sizes(data) == {"train": [20, 10], "val": [2, 2]}
    assert data.found()[2] == f"left out: {reason}"


def test_images_behind_links_count_once(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool", {"cats": 20, "more": 5, "dogs": 10})
    (tmp_path / "pets/train").mkdir(parents=True)
    (tmp_path / "pets/train/cat").symlink_to(pool / "cats")
    (tmp_path / "pets/train/dog").symlink_to(pool / "dogs")
    (pool / "cats/more").symlink_to(pool / "more")
    (pool / "cats/again").symlink_to(pool / "more")
    assert sizes(opened(tmp_path / "pets", val_fraction=0.2)) == {"train": [20, 8], "val": [5, 2]}


def test_images_of_train_are_validated_as_they_are_predicted(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 6, "train/dog": 6})
    crops, plain = (opened(root, augmentation=Augmentation(random_resized_crop=area)) for area in (0.5, None))
    assert sizes(crops) == sizes(plain)
    assert torch.equal(crops.fetch("val", torch.arange(2))[0], plain.fetch("val", torch.arange(2))[0])


def test_the_digest_does_not_depend_on_random_crops_and_the_cache(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 6, "train/dog": 6})
    options = [{"cache": cache, "augmentation": Augmentation(random_resized_crop=area)}
               for cache in ("on", "off") for area in (0.5, None)]  # fmt: skip
    assert len({opened(root, **each).digest() for each in options}) == 1


def test_a_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 3, "train/dog": 3})
    (root / "train/dog/cat.png").hardlink_to(root / "train/cat/01.png")
    with pytest.raises(ValueError, match=r"train/cat/01.png and .*train/dog/cat.png are the same file or folder"):
        opened(root)


def test_two_classes_that_are_one_folder_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 3, "train/dog": 3})
    (root / "train/hound").symlink_to("dog")
    with pytest.raises(ValueError, match=r"train/hound and .*train/dog are the same folder, through a link"):
        opened(root)


def test_images_of_train_in_test_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 5, "train/dog": 5, "test/cat": 2})
    (root / "test/dog").symlink_to("../train/dog")
    assert opened(root).found()[2] == "left out: 5 files of test are also in train, through a link"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_validation_images_are_found_under_their_usual_names(name: str, tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 8, "train/dog": 8, f"{name}/cat": 3, f"{name}/dog": 2, "Testing/dog": 1})
    assert sizes(opened(root)) == {"train": [8, 8], "val": [3, 2], "test": [0, 1]}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["holdout/cat"], "holdout has classes of train (cat), but it is not a split; rename it to val or test"),
        (["val/cat", "valid/cat"], "are both val; keep one of them"),
    ],
)
def test_an_ambiguous_split_is_refused(folders: list[str], message: str, tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 2, "train/dog": 2, **dict.fromkeys(folders, 1)})
    with pytest.raises(ValueError, match=r"data\.root: ") as refused:
        opened(root)
    assert message in str(refused.value)


def test_each_file_that_the_decoder_reads_is_an_image(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 1, "train/dog": 3})
    picture = Image.open(root / "train/cat/00.png")
    for name in ("a.avif", "b.jfif", "c.ppm", "d.JP2", "e.tga", "f.webp"):
        picture.save(root / "train/cat" / name)
    shutil.copy(root / "train/cat/00.png", root / "train/cat/without")
    for name in ("README", "notes.txt", "clip.mp4", "b.txt", ".DS_Store", "figure.eps"):
        (root / "train/cat" / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "train/labels.csv").touch()
    data = opened(root, val_fraction=0.3)
    assert data.splits["train"].targets.bincount().tolist() == [6, 2]
    assert data.splits["val"].targets.bincount().tolist() == [2, 1]
    assert data.found() == [
        f"{tmp_path.name}: 2 classes, 12x12 pixels; train 8, val 3, no test (scored on val)",
        "train cat 6, dog 2; val (from train) cat 2, dog 1",
        "left out: 7 files: .txt 2, outside of the classes 1, hidden 1, .mp4 1, .eps 1, no image without a suffix 1",
    ]


def test_a_folder_that_cannot_be_listed_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = write(Path(name), {"train/cat": 2, "train/dog": 2, "train/cat/closed": 2})
        (root / "train/cat/closed").chmod(0)
        with (
            as_nobody(),
            pytest.raises(OSError, match=r"data.root: cannot list .*train/cat/closed \(Permission denied"),
        ):
            opened(root)
        (root / "train/cat/closed").chmod(0o755)


def test_folders_of_operating_systems_are_not_classes(tmp_path: Path) -> None:
    junk = ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN")
    folders = [f"{place}/{name}" for place in ("train", "val", "train/cat") for name in junk]
    root = write(tmp_path, {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1, **dict.fromkeys(folders, 1)})
    data = opened(root)
    assert data.class_names == ("cat", "dog")
    assert sizes(data) == {"train": [4, 4], "val": [1, 1]}
    assert all(f"{name} (3)" in data.found()[2] for name in junk)


def png(values: Any, path: Path) -> None:
    """Write a grey image of 16 bits."""
    Image.fromarray(np.asarray(values, np.uint16)).save(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("bits", "cache"), [(8, "off"), (12, "on"), (12, "off"), (14, "off"), (16, "on")])
def test_sixteen_bit_files_keep_their_grey_levels(bits: int, cache: str, suffix: str, tmp_path: Path) -> None:
    """All splits have one scale, given by the largest value of all."""
    root = write(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 0, "val/b": 1})
    ramp = np.arange(256).reshape(16, 16) << (bits - 8)
    png(ramp // 4, root / f"train/a/dark.{suffix}")
    png(ramp, root / f"val/a/bright.{suffix}")
    data = ImageFolder(root=str(root), image_size=16, cache=cache)  # type: ignore[arg-type]
    data.setup("fit")
    dark, bright = data.fetch("train", torch.tensor([1]))[0], data.fetch("val", torch.tensor([0]))[0]
    assert (len(bright.unique()), int(bright.max())) == (256, 255)
    assert (len(dark.unique()), int(dark.max())) == (64, 63)
    assert data.found()[1].endswith(f"; 16-bit files hold {bits} bits (largest value {ramp.max():,})")


def test_values_above_the_bit_depth_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/a": 2, "train/b": 2})
    png(np.full((9, 9), 4096), root / "train/a/x.png")
    with pytest.raises(ValueError, match=r"data.bit_depth: got 12, but values go up to 4,096; it must be 14"):
        opened(root, bit_depth=12)


def test_a_class_without_images_that_can_be_decoded_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/cat": 3, "train/dog": 0, "train/emu": 3})
    (root / "train/dog/README").write_text("no images yet")
    with pytest.raises(ValueError, match=r"data\.root: no image in .*train/dog can be decoded; add some"):
        opened(root)


@pytest.mark.faults  # Two processes need half a minute.
def test_one_process_of_a_training_lists_the_files(tmp_path: Path) -> None:
    write(tmp_path / "pets", {"train/cat": 30, "train/dog": 30, "val/cat": 4, "val/dog": 4})
    (tmp_path / "counting.py").write_text(
        "import os\nfrom pathlib import Path\nfrom project.data import ImageFolder\n"
        "from project.data.checked_folder import CheckedFolder\n\n\n"
        "class Counted(CheckedFolder):\n"
        "    def check(self, workers):\n"
        "        Path(f'listed-by-{os.getpid()}').touch()\n"
        "        return super().check(workers)\n\n\n"
        "class Counting(ImageFolder):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__(**options)\n"
        "        self._folder.__class__ = Counted\n"
    )
    data = ["--data.class_path=counting.Counting", "--data.root=pets", "--data.image_size=16", "--data.batch_size=8"]
    done = fit(tmp_path, *data, "--strategy=ddp", "--devices=2", "--max_epochs=1", "--model.net.widths=[2,2,2,2]")
    assert done.code == 0, done.output
    assert done.output.count("pets: 2 classes, 16x16 pixels; train 60, val 8, no test") == 1
    assert len(list(tmp_path.glob("listed-by-*"))) == 1


def test_a_fit_prints_the_files_that_it_found(main_job: Fit) -> None:
    assert (
        "data    digits: 10 classes, 32x32 pixels; train 1,293, val 144, test 360\n"
        "        per class: train 125 to 131, val (from train) 14 to 15, test 35 to 37\n"
        "model   cnn (ImageClassifier), "
    ) in main_job.output.partition("epoch")[0]


def test_names_are_printed_on_one_line(tmp_path: Path) -> None:
    root = write(
        tmp_path / "two\nlines", {f"{split}/{name}": 4 for split in ("train", "val") for name in ("a\nb", "c")}
    )
    data = opened(root)
    assert data.class_names == (r"a\nb", "c")
    assert data.found()[1] == r"train a\nb 4, c 4; val a\nb 4, c 4"


@pytest.mark.faults  # Only a new interpreter has another locale.
def test_names_are_printed_on_one_line_and_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    names = ["a\nb", "\u732b", "\udcff"]
    write(tmp_path / "\u732b", {f"{split}/{name}": 4 for split in ("train", "val") for name in names})
    code = (
        "from project.data import ImageFolder\n"
        "import os; data = ImageFolder(root=os.listdir()[0], image_size=12); data.setup('fit')\n"
        "print(ascii([data.name, *data.class_names, *data.found(), data.splits['val'].targets.tolist()]))"
    )
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    counts = "a\\nb 4, \u732b 4, \\xff 4"
    expected = ["\u732b", r"a\nb", "\u732b", r"\xff"]
    line = "\u732b: 3 classes, 12x12 pixels; train 12, val 12, no test (scored on val)"
    lines = [line, f"train {counts}; val {counts}"]
    assert ast.literal_eval(printed.splitlines()[-1]) == [*expected, *lines, [0] * 4 + [1] * 4 + [2] * 4]
