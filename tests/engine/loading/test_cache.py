import multiprocessing
import re
import signal
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path

import psutil
import pytest
import torch
from pictures import image_folder, picture
from PIL import Image
from torch import Tensor

from project.data import ImageFolder
from project.engine.loading import Augmentation, ImageFiles, Workers
from project.engine.runtime.places import cache_of

pytestmark = pytest.mark.usefixtures("other_folder")


def use_cache(root: Path, results: "Queue[tuple[str, int]] | None" = None) -> None:
    torch.set_num_threads(1)  # torch's threads do not survive a fork.
    data = ImageFolder(root=str(root), image_size=32, workers=Workers(num=2))
    data.setup("fit")
    if results is not None:
        train = data.splits["train"]
        results.put((type(train).__name__, int(data.fetch("train", torch.arange(len(train)))[0].long().sum())))


def caches(root: Path) -> list[str]:
    return sorted(path.name for path in cache_of(root).iterdir() if path.suffix in (".npy", ".tmp"))


def test_four_processes_create_one_cache_and_a_killed_process_leaves_none(tmp_path: Path) -> None:
    root, fork = image_folder(tmp_path, 400), multiprocessing.get_context("fork")
    killed = fork.Process(target=use_cache, args=(root,))
    killed.start()
    try:
        while killed.is_alive() and not list(cache_of(root).glob(".train*.npy.tmp")):
            time.sleep(0.001)
    finally:
        killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not list(cache_of(root).glob("train*.npy"))
    results: Queue[tuple[str, int]] = fork.Queue()
    processes = [fork.Process(target=use_cache, args=(root, results)) for _ in range(4)]
    try:
        for process in processes:
            process.start()
        distinct = {results.get(timeout=60) for _ in processes}
    finally:
        for process in processes:
            process.kill()
    files = ImageFolder(root=str(root), image_size=32, cache="off")
    files.setup("fit")
    assert distinct == {("ImageArray", int(files.fetch("train", torch.arange(400))[0].long().sum()))}
    assert [name.split("-")[0] for name in caches(root)] == ["train", "val"]
    assert {path.name for path in root.rglob("*") if path.suffix != ".jpg"} == {"train", "val", "a", "b"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the pages of a mapping")
@pytest.mark.parametrize("min_area", [None, 0.3])
def test_an_epoch_from_the_cache_does_not_copy_the_cache(min_area: float | None, tmp_path: Path) -> None:
    root = image_folder(tmp_path, 40)
    data = ImageFolder(
        root=str(root),
        image_size=32,
        batch_size=8,
        augmentation=Augmentation(random_resized_crop=min_area),
        workers=Workers(num=2),
    )
    data.setup("fit")
    assert sum(len(images) for images, _ in data.train_dataloader()) == 40
    (mapped,) = [one for one in psutil.Process().memory_maps() if f"{cache_of(root)}/train" in one.path]
    assert mapped.rss >= 40 * 3 * 32**2
    assert mapped.anonymous == 0  # Processes share all pages.


def test_the_cache_is_rebuilt_only_if_a_file_changes(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 4)

    def first_image() -> Tensor:
        data = ImageFolder(root=str(root), image_size=32)
        data.setup("fit")
        return data.fetch("train", torch.tensor([0]))[0]

    before, names = first_image(), caches(root)
    made = [(cache_of(root) / name).stat().st_mtime_ns for name in names]
    assert torch.equal(first_image(), before)
    assert made == [(cache_of(root) / name).stat().st_mtime_ns for name in caches(root)]
    picture().transpose(Image.Transpose.ROTATE_180).save(root / "train/a/0.jpg")
    assert not torch.equal(first_image(), before)
    assert len(caches(root)) == 2  # The old cache was removed.
    assert caches(root) != names


@pytest.mark.parametrize("damage", [b"", b"{}", "half"])
def test_a_damaged_cache_is_named(damage: bytes | str, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 4)
    use_cache(root)
    (path,) = cache_of(root).glob("train-32px-*.npy")
    path.write_bytes(damage if isinstance(damage, bytes) else path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match=rf"{path.name} is damaged .*; remove it"):
        use_cache(root)
    path.unlink()
    use_cache(root)


def test_caches_of_a_folder_stay_below_a_limit_and_the_oldest_is_removed_first(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 40)  # 40 images in train and in val: 80 * 3 * 64**2 bytes are 0.94 MiB.

    def kept(*sizes: int) -> list[str]:
        for size in sizes:
            ImageFolder(root=str(root), image_size=size, cache_total_mib=2).setup("fit")
        assert sum(path.stat().st_size for path in cache_of(root).glob("*.npy")) <= 2 * 2**20
        return [path.name.split("-")[1] for path in sorted(cache_of(root).glob("train-*.npy"))]

    assert kept(63, 64) == ["63px", "64px"]
    assert kept(63, 62) == ["62px", "64px"]
    assert kept(16, 63) == ["16px", "62px", "63px"]


def names(log: Path) -> list[str]:
    """List the files in a log, without the line that a kill has cut."""
    return re.findall(r"\t'(.+)' \d+ \d{19}$", log.read_text(), re.MULTILINE)


def decoded(root: Path) -> list[str]:
    """List the files that were decoded so far, in the order of the log."""
    data = ImageFolder(root=str(root), image_size=32, cache="off")
    data.setup("fit")
    return names(cache_of(root) / "train-checked.log")


def test_only_files_that_changed_are_decoded_again(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 40)
    assert len(decoded(root)) == 40
    picture(30, 30).save(root / "train/a/0.jpg")
    picture(30, 30).save(root / "train/b/new.jpg")
    assert decoded(root)[40:] == ["train/a/0.jpg", "train/b/new.jpg"]
    assert len(decoded(root)) == 42


def test_a_check_that_was_killed_continues(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 40)
    assert len(decoded(root)) == 40
    log = cache_of(root) / "train-checked.log"
    before, lines = names(log), log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines)[: -len(lines[-1]) - 9])  # A kill can cut a line.
    assert len(names(log)) == 38
    later = decoded(root)
    assert later[:38] == before[:38]
    assert sorted(later) == sorted(before)


def test_a_cache_above_the_limit_is_not_created(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 4)
    data = ImageFolder(root=str(root), image_size=32, cache_limit_mib=0)
    data.setup("fit")
    assert isinstance(data.splits["train"], ImageFiles)
    assert caches(root) == []
