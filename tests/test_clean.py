"""The removal of what nothing needs, and of nothing else."""

import os
import re
import time
from pathlib import Path

import pytest
import tiny
from commands import free_port
from conftest import write_folder
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from runs import Runs

from project.clean import main
from project.engine.runtime.places import cache_of
from project.engine.tracking import store
from project.engine.tracking.spool import Spool
from project.evaluate import main as evaluate
from project.fit import main as fit

OLD = time.time() - 7200


def cleaned(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 0
    return capsys.readouterr().out


def folder(run_id: str) -> Path:
    return store.checkpoint_folder(run_id)


def unknown(run_id: str) -> Path:
    place = folder(run_id)
    place.mkdir(parents=True)
    (place / "last.ckpt").write_bytes(b"0" * 1000)
    return place


def test_only_what_nothing_needs_is_removed(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient()
    kept, deleted, best, other, _ = runs
    assert cleaned(capsys) == "nothing to remove\n"
    client.delete_run(deleted)
    foreign = unknown("b" * 32)
    running = client.create_run("0").info.run_id
    client.delete_run(running)
    live = unknown(running)
    spool = Spool(store.spool_folder(running))  # as that of a fit
    study = client.create_run("0", tags={"study": "s", "best.run": best, "command": "sweep"}).info.run_id
    for number, run_id in enumerate([best, other]):
        for key, value in {MLFLOW_PARENT_RUN_ID: study, "trial": str(number), "state": "complete"}.items():
            client.set_tag(run_id, key, value)
    expected = {str(folder(deleted)): "its run is deleted"}

    assert listed(cleaned(capsys)) == expected  # The study is still running.
    client.set_terminated(study)
    expected[str(folder(other))] = "trial 1 was not the best of s"
    sizes = sum(path.stat().st_size for name in expected for path in all_files(Path(name)))
    report = cleaned(capsys)
    assert listed(report) == expected
    assert all(Path(name).exists() for name in expected)
    removed = cleaned(capsys, "--remove")
    assert listed(removed) == expected
    assert not any(Path(name).exists() for name in expected)
    assert float(re.findall(r"([\d.]+) kB removed", removed)[0]) == pytest.approx(sizes / 1000, abs=0.06)
    assert all(path.exists() for path in (foreign, live, Path("mlruns/mlflow.db")))
    spool.close(remove=True)
    evaluate([best])
    fit(["--resume", kept, "--max_epochs=3"])
    assert client.get_run(kept).info.status == "FINISHED"


def listed(report: str) -> dict[str, str]:
    """Return the reasons by path; the last line is the sum."""
    matches = [re.fullmatch(r" *[\d.]+ \w+  (.*?): (.*)", line) for line in report.splitlines()[:-1]]
    return {match[1]: match[2] for match in matches if match}


def all_files(path: Path) -> list[Path]:
    """Return the files of a folder without second names."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return list({file.stat().st_ino: file for file in files}.values())


def test_a_registered_run_and_the_trials_of_keep_all_stay(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    client, run_id = MlflowClient(), runs.good
    study = client.create_run(
        "0", tags={"study": "s", "best.run": "x", "command": "project.sweep --keep_checkpoints all"}
    ).info.run_id
    client.set_terminated(study)
    for key, value in {MLFLOW_PARENT_RUN_ID: study, "trial": "0", "state": "complete"}.items():
        client.set_tag(run_id, key, value)
    assert cleaned(capsys) == "nothing to remove\n"
    client.set_tag(study, "command", "project.sweep")
    assert "trial 0 was not the best of s" in cleaned(capsys)
    client.create_registered_model("cats")
    client.create_model_version("cats", "file:///x", run_id)
    assert cleaned(capsys) == "nothing to remove\n"


def test_caches_of_absent_images_and_empty_spools_are_found(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(workplace / "photos")
    fit(["--data=image_folder", "--data.root=photos", "--data.image_size=8", *tiny.TINY[1:], "--max_epochs=1"])
    assert cleaned(capsys) == "nothing to remove\n"
    elsewhere, spool = cache_of(workplace / "photos"), store.spool_folder("d" * 32)
    for place in (elsewhere, spool):
        place.mkdir(parents=True, exist_ok=True)
    (elsewhere / "train-8px-0.npy").write_bytes(b"0" * 100)
    os.utime(spool, (OLD, OLD))
    assert listed(cleaned(capsys)) == {str(spool): "a spool without records"}
    Path("photos").rename("moved")
    assert listed(cleaned(capsys))[str(elsewhere)] == "its images, photos, are gone"


@pytest.mark.parametrize("uri", ["", "server"])
def test_without_a_store_nothing_is_guessed(
    uri: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = unknown("a" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}" if uri else "sqlite:///nowhere.db")
    with pytest.raises(SystemExit) as end:
        main(["--remove"])
    assert (end.value.code, len(capsys.readouterr().err.splitlines())) == (2, 1)
    assert place.exists()
    assert not Path("nowhere.db").exists()
