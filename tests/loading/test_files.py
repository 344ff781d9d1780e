"""Decoding, checking and caching of files that the tests make."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import as_nobody
from PIL import Image
from torch import Tensor

from project.data import ImageFolder
from project.launch.devices import usable_cores
from project.loading import ImageFiles, LoadingError, Workers, check_files, sample_keys
from project.loading.decode import Pixels, read_rgb, write_resized
from project.loading.images import Request
from project.loading.threads import Buffers


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """Smooth colours, so that JPEG changes them little."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([255 * y / height, 255 * x / width, 255 - 255 * y / height], 2).round().astype(np.uint8)
    )


def write(folder: Path) -> dict[str, Path]:
    """One picture in every kind of file."""
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    see_through = image.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    made = {
        "jpeg": (image, "a.jpg", {"quality": 95}),
        "rotated": (image.transpose(Image.Transpose.ROTATE_90), "b.jpg", {"quality": 95, "exif": exif}),
        "cmyk": (image.convert("CMYK"), "c.jpg", {"quality": 95}),
        "grey jpeg": (image.convert("L"), "d.jpg", {"quality": 95}),
        "progressive": (image, "e.jpg", {"quality": 95, "progressive": True}),
        "png": (image, "f.png", {}),
        "palette": (image.quantize(256), "g.png", {}),
        "rgba": (see_through, "h.png", {}),
        "grey png": (image.convert("L"), "i.png", {}),
        "16 bits": (deep, "j.png", {}),
        "webp": (image, "k.webp", {"quality": 95}),
        "gif": (image, "l.gif", {}),
        "jpeg named png": (image, "m.png", {"format": "JPEG", "quality": 95}),
    }
    for source, name, options in made.values():
        source.save(folder / name, **options)
    return {kind: folder / name for kind, (_, name, _) in made.items()}


def test_every_kind_of_file_is_read_rightly(tmp_path: Path) -> None:
    expected = np.asarray(picture()).astype(int)
    for kind, path in write(tmp_path).items():
        pixels = read_rgb(path).pixels
        right = (
            np.asarray(picture().convert("L").convert("RGB")).astype(int)
            if kind in ("grey jpeg", "grey png", "16 bits")
            else expected
        )
        assert pixels.shape == right.shape, kind
        assert np.abs(pixels - right).mean() < 5, kind


@pytest.mark.parametrize("stray", [b"\xff\xff", b"\xff\0"])
def test_a_rotated_jpeg_is_turned_whatever_stands_before_its_exif(stray: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "plain.jpg", exif=exif)
    data = (tmp_path / "plain.jpg").read_bytes()
    place = data.index(b"\xff\xe1")
    (tmp_path / "stray.jpg").write_bytes(data[:place] + stray + data[place:])
    assert read_rgb(tmp_path / "plain.jpg").size == read_rgb(tmp_path / "stray.jpg").size == (60, 40)


@pytest.mark.parametrize("enough", [1, 2, 5, 30])
def test_a_large_jpeg_is_decoded_no_larger_than_needed(enough: int, tmp_path: Path) -> None:
    picture(403, 601).save(tmp_path / "large.jpg", quality=95)
    image = read_rgb(tmp_path / "large.jpg", enough)
    assert image.scale == {1: 1, 2: 2, 5: 4, 30: 8}[enough]
    assert image.size == (403, 601)
    assert image.pixels.shape == (-(-403 // image.scale), -(-601 // image.scale), 3)


JPEGS = [{"subsampling": kind} for kind in ("4:4:4", "4:2:2", "4:2:0")] + [
    {"progressive": True},
    {"restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_the_upper_rows_of_a_jpeg_are_those_of_the_whole(options: dict[str, object], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (203, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=90, **options)
    for enough in (1, 2, 4, 8):
        whole = read_rgb(tmp_path / "noise.jpg", enough).pixels
        for rows in (1, 15, 16, 17, 100, 191, 202, 203):
            upper, scale, size = read_rgb(tmp_path / "noise.jpg", enough, rows)
            needed = -(-rows // scale)
            assert np.array_equal(upper[:needed], whole[:needed]), (enough, rows)
            assert size == (203, 150)
            assert rows > 100 or (len(upper) < len(whole)) == ("progressive" not in options)


def test_a_truncated_jpeg_is_refused_where_its_upper_rows_are_there(tmp_path: Path) -> None:
    picture(200, 200).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(OSError, match="truncated"):
        read_rgb(tmp_path / "a.jpg", rows=20)


def files(folder: Path, count: int = 30, size: int = 24, min_area: float | None = 0.3) -> ImageFiles:
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        height, width = random.integers(30, 200, 2)
        paths.append(folder / f"{index}.jpg")
        picture(int(height), int(width)).save(paths[-1])
    sizes = check_files(paths, folder / "check.json", 2).sizes
    return ImageFiles(paths, torch.arange(count), sizes, size, min_area)


def streamed(store: ImageFiles, workers: int) -> list[Tensor]:
    requests = [Request(rows, sample_keys(0, 0, rows)) for rows in ([1, 2, 3] * 5, [29, 0], list(range(20)))]
    return [batch.images.clone() for batch in store.stream(iter(requests), Workers(num_workers=workers))]


def test_threads_change_nothing_and_a_batch_that_is_held_stays_as_it_is(tmp_path: Path) -> None:
    store = files(tmp_path)
    alone, together = streamed(store, 0), streamed(store, 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    requests = [Request([index], None) for index in range(20)]
    held = [batch.images for batch in store.stream(iter(requests), Workers(num_workers=2))]
    assert all(torch.equal(images, store[[index]][0]) for index, images in enumerate(held))


def test_memory_is_used_again_when_nothing_holds_it() -> None:
    buffers = Buffers((4,))
    array, tensor = buffers.take(8)
    first = tensor.data_ptr()
    view = tensor[2:]
    del array, tensor
    assert buffers.take(8)[1].data_ptr() != first
    del view
    taken = {buffers.take(5)[1].data_ptr() for _ in range(2)}
    assert first in taken


def test_a_call_that_outlives_its_epoch_writes_into_no_later_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = files(tmp_path), list(range(30))
    (expected,) = (batch.images.clone() for batch in store.stream(iter([Request(rows, None)]), Workers()))

    def slowly(pixels: Pixels, box: tuple[int, int, int, int], out: Pixels) -> None:
        time.sleep(0.02)
        write_resized(pixels, box, out)

    monkeypatch.setattr("project.loading.files.write_resized", slowly)
    early = store.stream(iter([Request([29] * 30, None)] * 4), Workers(num_workers=2, prefetch_factor=1))
    next(early)
    early.close()
    (later,) = store.stream(iter([Request(rows, None)]), Workers())
    time.sleep(0.2)
    assert torch.equal(later.images, expected)


def test_threads_of_loading_leave_the_training_thread_its_cores() -> None:
    loads = "from project.loading.threads import Threads, torch; Threads(2).submit(print).result()"
    said = subprocess.check_output([sys.executable, "-c", f"{loads}; print(torch.get_num_threads())"], text=True)
    assert (int(said) > 1) == (usable_cores() > 1)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.paths[3].unlink()
    with pytest.raises(LoadingError, match=r"cannot read .*3\.jpg, which could be read when the run began"):
        streamed(store, 2)


def test_a_read_that_hangs_ends_with_the_option_to_change(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.paths[3].unlink()
    os.mkfifo(store.paths[3])  # opening it waits for a writer
    with pytest.raises(LoadingError, match=r"a thread hangs in reading files .* --data\.worker_timeout_s"):
        list(store.stream(iter([Request([3], None)]), Workers(num_workers=1, timeout_s=1)))


BAD = ("truncated.jpg", "truncated.png", "empty.jpg", "text.jpg", "bomb.png", "folder.jpg", "nowhere.jpg", "pipe.jpg")


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
    (root / "train/a/folder.jpg").mkdir()
    (root / "train/b/nowhere.jpg").symlink_to("nowhere")
    os.mkfifo(root / "train/b/pipe.jpg")  # opening it waits for a writer


def test_bad_images_are_all_listed(tmp_path: Path) -> None:
    folder_with_bad_images(tmp_path)
    data = ImageFolder(root=str(tmp_path))
    with pytest.raises(ValueError, match=r"data.on_bad_image: 8 of 88 files in .*train cannot be decoded, all in"):
        data.setup("fit")
    listed = (tmp_path / ".cache/train-bad.txt").read_text().splitlines()
    assert {Path(line.split(": ")[0]).name for line in listed} == set(BAD)
    with pytest.raises(ValueError, match=r"data.max_bad_percent: got 1.0, but 8 of 88"):
        ImageFolder(root=str(tmp_path), on_bad_image="skip").setup("fit")


def test_what_cannot_be_read_today_is_not_taken_for_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        monkeypatch.chdir(name)
        denied = image_folder(Path(name, "images"), 4) / "train/a/0.jpg"
        denied.chmod(0)
        Path("images").chmod(0o777)
        with as_nobody(), pytest.raises(OSError, match=r"1 of 4 files cannot be read, damaged or not; .*0\.jpg"):
            ImageFolder(root="images", on_bad_image="skip").setup("fit")
        denied.chmod(0o644)
        with as_nobody():
            data = ImageFolder(root="images")
            data.setup("fit")
            assert len(data.splits["train"]) == 4
        monkeypatch.undo()


def test_skipped_images_are_counted_and_left_out(tmp_path: Path) -> None:
    folder_with_bad_images(tmp_path)
    data = ImageFolder(root=str(tmp_path), on_bad_image="skip", max_bad_percent=10, cache="off")
    data.setup("fit")
    assert data.skipped == {"train": 8}
    assert len(data.splits["train"]) == 80
    assert data.splits["train"][list(range(80))][0].shape == (80, 3, 64, 64)


def use_cache(root: Path, said: "Queue[tuple[str, int]] | None" = None) -> None:
    torch.set_num_threads(1)  # the threads of torch do not survive a fork
    data = ImageFolder(root=str(root), image_size=32, num_workers=2)
    data.setup("fit")
    if said is not None:
        train = data.splits["train"]
        said.put((type(train).__name__, int(train[list(range(len(train)))][0].long().sum())))


def caches(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".cache").iterdir() if path.suffix in (".npy", ".tmp"))


def image_folder(root: Path, count: int) -> Path:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
        for index in range(count):
            picture(90, 120).save(root / split / "ab"[index % 2] / f"{index}.jpg")
    return root


def test_four_processes_make_one_cache_and_a_kill_in_the_middle_leaves_none(tmp_path: Path) -> None:
    root, fork = image_folder(tmp_path, 400), multiprocessing.get_context("fork")
    killed = fork.Process(target=use_cache, args=(root,))
    killed.start()
    try:
        while killed.is_alive() and not list(root.glob(".cache/.train*.npy.tmp")):
            time.sleep(0.001)
    finally:
        killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not list(root.glob(".cache/train*.npy"))
    said: Queue[tuple[str, int]] = fork.Queue()
    processes = [fork.Process(target=use_cache, args=(root, said)) for _ in range(4)]
    try:
        for process in processes:
            process.start()
        answers = {said.get(timeout=60) for _ in processes}
    finally:
        for process in processes:
            process.kill()
    files = ImageFolder(root=str(root), image_size=32, cache="off")
    files.setup("fit")
    assert answers == {("ImageArray", int(files.splits["train"][list(range(400))][0].long().sum()))}
    assert [name.split("-")[0] for name in caches(root)] == ["train", "val"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a mapping holds")
@pytest.mark.parametrize("min_area", [None, 0.3])
def test_an_epoch_from_the_cache_copies_none_of_it(min_area: float | None, tmp_path: Path) -> None:
    root = image_folder(tmp_path, 40)
    data = ImageFolder(root=str(root), image_size=32, batch_size=8, random_resized_crop=min_area, num_workers=2)
    data.setup("fit")
    assert sum(len(images) for images, _ in data.train_dataloader()) == 40
    (cache,) = (one for one in psutil.Process().memory_maps() if one.path.startswith(f"{root}/.cache/train"))
    assert cache.rss >= 40 * 3 * 32**2
    assert cache.anonymous == 0  # so that processes which map it share all of it


def test_the_cache_is_made_anew_when_a_file_changes_and_only_then(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 4)

    def first_image() -> Tensor:
        data = ImageFolder(root=str(root), image_size=32)
        data.setup("fit")
        return data.splits["train"][[0]][0]

    before, names = first_image(), caches(root)
    made = [(root / ".cache" / name).stat().st_mtime_ns for name in names]
    assert torch.equal(first_image(), before)
    assert made == [(root / ".cache" / name).stat().st_mtime_ns for name in caches(root)]
    picture().transpose(Image.Transpose.ROTATE_180).save(root / "train/a/0.jpg")
    assert not torch.equal(first_image(), before)
    assert len(caches(root)) == 2  # the old one is gone
    assert caches(root) != names


def test_a_cache_above_the_limit_is_not_made(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 4)
    data = ImageFolder(root=str(root), image_size=32, cache_limit_mib=0)
    data.setup("fit")
    assert isinstance(data.splits["train"], ImageFiles)
    assert caches(root) == []
