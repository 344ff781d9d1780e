import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command
from conftest import ROOT, clean_environment
from pictures import picture
from torch import Tensor

from project.engine.loading import Crop, FileList, ImageFiles, Workers, check_files
from project.engine.loading.counter_rng import sample_keys
from project.engine.loading.decode import Pixels, write_resized
from project.engine.loading.images import Request, fetch
from project.engine.loading.threads import Buffers
from project.engine.loading.workers import LoadingError

CROP = Crop(24, min_area=0.3)
HERE = Workers(num=0, pin_memory=False)


def files(folder: Path, count: int = 30) -> ImageFiles:
    random = np.random.default_rng(0)
    for index in range(count):
        height, width = random.integers(30, 200, 2)
        picture(int(height), int(width)).save(folder / f"{index}.jpg")
    paths = FileList(folder, [f"{index}.jpg" for index in range(count)])
    sizes = check_files(paths, [(0, 0)] * count, "checked.log", 2).sizes
    return ImageFiles(paths, torch.arange(count), sizes)


def streamed(store: ImageFiles, workers: int) -> list[Tensor]:
    batches = [torch.tensor(rows) for rows in ([1, 2, 3] * 5, [29, 0], list(range(20)))]
    requests = [Request(rows, sample_keys(0, 0, rows)) for rows in batches]
    return [batch.images.clone() for batch in store.stream(iter(requests), replace(HERE, num=workers), CROP)]


def test_threads_do_not_change_batches_and_a_referenced_batch_is_not_overwritten(tmp_path: Path) -> None:
    store = files(tmp_path)
    alone, together = streamed(store, 0), streamed(store, 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    requests = [Request(torch.tensor([index]), None) for index in range(20)]
    held = [batch.images for batch in store.stream(iter(requests), replace(HERE, num=2), CROP)]
    assert all(
        torch.equal(images, fetch(store, torch.tensor([index]), CROP).images) for index, images in enumerate(held)
    )


def test_memory_is_reused_if_nothing_references_it() -> None:
    buffers = Buffers((4,))
    array, tensor = buffers.take(8)
    first = tensor.data_ptr()
    view = tensor[2:]
    del array, tensor
    assert buffers.take(8)[1].data_ptr() != first
    del view
    taken = {buffers.take(5)[1].data_ptr() for _ in range(2)}
    assert first in taken


def test_a_call_that_outlives_its_epoch_does_not_write_into_later_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = files(tmp_path), torch.arange(30)
    (expected,) = (batch.images.clone() for batch in store.stream(iter([Request(rows, None)]), HERE, CROP))

    def slowly(pixels: Pixels, box: tuple[int, int, int, int], out: Pixels) -> None:
        time.sleep(0.02)
        write_resized(pixels, box, out)

    monkeypatch.setattr("project.engine.loading.image_files.write_resized", slowly)
    early = store.stream(
        iter([Request(torch.tensor([29] * 30), None)] * 4), replace(HERE, num=2, prefetch_factor=1), CROP
    )
    next(early)
    early.close()
    (later,) = store.stream(iter([Request(rows, None)]), HERE, CROP)
    time.sleep(0.2)
    assert torch.equal(later.images, expected)


def test_loading_threads_do_not_take_cores_from_the_training_thread() -> None:
    def threads(code: str) -> int:
        code = f"from project.engine.loading.threads import Threads, torch; {code}; print(torch.get_num_threads())"
        environment = clean_environment() | {"OMP_NUM_THREADS": "2"}
        return int(Command("-c", code, folder=ROOT, environment=environment).communicate()[0])

    assert threads("Threads(2).submit(lambda: None).result()") == threads("pass")


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    store = files(tmp_path)
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(LoadingError, match=r"cannot read .*3\.jpg, which could be read when it was checked"):
        streamed(store, 2)


def test_a_read_that_hangs_ends_in_an_error_that_names_the_option(tmp_path: Path) -> None:
    store = files(tmp_path)
    (tmp_path / "3.jpg").unlink()
    os.mkfifo(tmp_path / "3.jpg")  # Opening it waits for a writer.
    with pytest.raises(LoadingError, match=r"a thread hangs in reading files .* --data\.workers\.timeout_s"):
        list(store.stream(iter([Request(torch.tensor([3]), None)]), replace(HERE, num=1, timeout_s=1), CROP))
