import multiprocessing
import os
import resource
import signal
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from conftest import Fit, as_nobody
from tiny import SERVED

from project.engine.checkpoints.durable import DurableCheckpointIO, is_valid, link_durably, read_valid, write_durably
from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.tracking import store
from project.fit import main

STATE = {"state_dict": {"weight": torch.arange(200_000.0)}, "epoch": 3, "optimizer_states": []}


def _write_for_ever(path: Path) -> None:
    for epoch in range(10**6):
        write_durably(path, STATE | {"epoch": epoch})


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.faults)])
def test_kill_9_during_a_save_leaves_a_whole_checkpoint(kills: int, tmp_path: Path, moments: Random) -> None:
    path = tmp_path / "last.ckpt"
    write_durably(path, STATE)
    for _ in range(kills):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=[path])
        writer.start()
        time.sleep(moments.uniform(0.005, 0.08))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert is_valid(path)
        assert torch.equal(
            torch.load(path, weights_only=True)["state_dict"]["weight"], STATE["state_dict"]["weight"]  # type: ignore[index]
        )  # fmt: skip
    assert newest_checkpoint(tmp_path) == path  # and not what a kill left unfinished


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_durably(tmp_path / "best-epoch001.ckpt", STATE)
    os.utime(tmp_path / "best-epoch001.ckpt", (1, 1))
    last = tmp_path / "last.ckpt"
    write_durably(last, STATE)
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    last.write_bytes({"truncated": content[:-1000], "flipped": content, "emptied": b""}[damage])
    assert newest_checkpoint(tmp_path) == tmp_path / "best-epoch001.ckpt"
    assert f"these checkpoints are damaged or contain code: {last}; an older one is used" in caplog.text


def test_no_valid_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no valid checkpoint"):
        newest_checkpoint(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"damaged or containing code: \S*last\.ckpt; start a new run"):
        newest_checkpoint(tmp_path)


def test_a_full_disk_is_an_error_and_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_durably(path, STATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match="the earlier one is unchanged"):
            write_durably(path, STATE | {"epoch": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.load(path, weights_only=True)["epoch"] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_old_checkpoint_is_removed_only_after_the_new_one_is_written(tmp_path: Path) -> None:
    storage = DurableCheckpointIO()
    storage.save_checkpoint(STATE, tmp_path / "best-1.ckpt")
    storage.save_checkpoint(STATE, tmp_path / "best-2.ckpt")
    storage.remove_checkpoint(tmp_path / "best-1.ckpt")
    storage.teardown()
    assert [entry.name for entry in tmp_path.iterdir()] == ["best-2.ckpt"]


def test_a_checkpoint_that_cannot_be_written_replaces_none(tmp_path: Path) -> None:
    storage = DurableCheckpointIO()
    storage.save_checkpoint(STATE, tmp_path / "best-1.ckpt")
    storage.teardown()
    (tmp_path / "best-2.ckpt").mkdir()  # as good as a full disk: the write fails
    storage.save_checkpoint(STATE, tmp_path / "best-2.ckpt")
    storage.remove_checkpoint(tmp_path / "best-1.ckpt")
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*best-2\.ckpt"):
        storage.teardown()
    storage.teardown()  # it is said once
    assert is_valid(tmp_path / "best-1.ckpt")


def test_a_checkpoint_has_no_later_changes_of_the_training(tmp_path: Path) -> None:
    weight = torch.zeros(1_000_000)
    storage = DurableCheckpointIO()
    storage.save_checkpoint({"weight": weight}, tmp_path / "last.ckpt")
    weight.add_(1)
    assert storage.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)["weight"].sum() == 0


def test_a_second_name_needs_no_second_write_and_keeps_the_old_content(tmp_path: Path) -> None:
    storage = DurableCheckpointIO()
    storage.save_checkpoint(STATE, tmp_path / "best-1.ckpt")
    storage.link_checkpoint(tmp_path / "best-1.ckpt", tmp_path / "last.ckpt")
    storage.teardown()
    assert (tmp_path / "best-1.ckpt").samefile(tmp_path / "last.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    storage.save_checkpoint(STATE | {"epoch": 4}, tmp_path / "last.ckpt")
    storage.teardown()
    assert torch.load(tmp_path / "best-1.ckpt", weights_only=True)["epoch"] == 3
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 4


def test_a_filesystem_without_hard_links_gets_a_copy(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        write_durably(tmp_path / "best-1.ckpt", STATE)
        last = Path(elsewhere) / "last.ckpt"
        assert last.parent.stat().st_dev != tmp_path.stat().st_dev  # hence os.link cannot
        link_durably(tmp_path / "best-1.ckpt", last)
        assert is_valid(last)
        assert last.stat().st_ino != (tmp_path / "best-1.ckpt").stat().st_ino
        assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_a_copy_for_lack_of_hard_links_is_not_newer_than_its_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_durably(tmp_path / "last.ckpt", STATE)
    write_durably(tmp_path / "best-epoch001.ckpt", STATE | {"epoch": 4})
    link_durably(tmp_path / "last.ckpt", tmp_path / "previous.ckpt")  # A kill here leaves the best one the newest.
    assert newest_checkpoint(tmp_path) == tmp_path / "best-epoch001.ckpt"


def _train_until_it_fails(storage: DurableCheckpointIO) -> None:
    for _ in range(500):
        storage.raise_failure()
        time.sleep(0.01)


@pytest.mark.parametrize("value", [np.float64(0.5), np.ones(2), {1}.__iter__, Path])
def test_a_state_that_cannot_be_read_again_is_named_and_not_written(value: object, tmp_path: Path) -> None:
    write_durably(tmp_path / "last.ckpt", STATE)
    state = STATE | {"callbacks": {"EarlyStopping": {"patience": 3}, "Mine": {"scores": [0.25, value]}}}
    storage = DurableCheckpointIO()
    storage.save_checkpoint(state, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not written: callbacks\.Mine\.scores\.1 is a "):
        _train_until_it_fails(storage)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_weights_that_are_nan_are_not_saved(tmp_path: Path) -> None:
    storage = DurableCheckpointIO()
    storage.save_checkpoint(STATE, tmp_path / "last.ckpt")
    storage.save_checkpoint({"state_dict": {"weight": torch.tensor([1.0, torch.nan])}}, tmp_path / "last.ckpt")
    with pytest.raises(FloatingPointError, match="weight has weights that are NaN"):
        storage.teardown()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_folder_that_may_not_be_written_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with tempfile.TemporaryDirectory() as name, as_nobody():
        folder = Path(name) / "checkpoints"
        with pytest.raises(OSError, match=f"cannot write the checkpoint {folder}.*Permission denied"):
            write_durably(folder / "last.ckpt", STATE)


def test_a_home_that_may_not_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.chdir(name)
        with as_nobody(), pytest.raises(OSError, match=r"cannot write in .*mlruns \(Permission denied\)"):
            store.connect()
        monkeypatch.undo()


@pytest.mark.faults
def test_a_folder_for_temporary_files_elsewhere_changes_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert Path(elsewhere).stat().st_dev != workplace.stat().st_dev
        monkeypatch.setattr(tempfile, "tempdir", elsewhere)
        main([*SERVED, "--max_epochs=1"])
        assert list(Path(elsewhere).iterdir()) == []
    run = Fit(workplace, 0, "").run
    assert run.info.status == "FINISHED"
    files = {path.name for path in store.checkpoint_folder(run.info.run_id).iterdir()}
    assert files == {"last.ckpt", "best-epoch000.ckpt"}


def test_an_error_of_the_background_thread_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = DurableCheckpointIO()
    storage.save_checkpoint(STATE, tmp_path / "file" / "last.ckpt")
    with pytest.raises(OSError, match="file"):
        storage.teardown()


def test_a_checkpoint_that_may_not_be_read_is_not_reported_as_damaged() -> None:
    with tempfile.TemporaryDirectory() as name:
        write_durably(path := Path(name) / "last.ckpt", {"state_dict": {}})
        path.chmod(0)
        Path(name).chmod(0o755)
        with as_nobody(), pytest.raises(PermissionError, match=r"last\.ckpt"):
            read_valid(path)
