"""The package as `pip install .` installs it, outside of the repository."""

import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Fit, fit


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the files that pyproject.toml puts into the wheel."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in {**{name: name for name in wheel["packages"]}, **wheel["force-include"]}.items():
        shutil.copytree(ROOT / source, tmp_path / "site" / target, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def fit_elsewhere(site: Path, folder: Path, *options: str) -> Fit:
    return fit(folder, *options, "--trainer.fast_dev_run=1", environment={"PYTHONPATH": str(site)})


def test_an_installed_package_offers_its_configurations_and_those_of_the_current_folder(
    installed: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "elsewhere/configs/model/mine.yaml"
    mine.parent.mkdir(parents=True)
    shutil.copy(ROOT / "configs/model/cnn.yaml", mine)
    done = fit_elsewhere(installed, tmp_path / "elsewhere", "--model", "mine")
    assert done.code == 0, done.output
    assert "test accuracy" in done.output
    refused = fit_elsewhere(installed, tmp_path / "elsewhere", "--model", "nothing")
    assert "configs/model has cnn, mine, torchvision" in refused.output


@pytest.mark.faults  # It needs uv, and an index that has hatchling.
def test_the_wheel_contains_the_files_that_git_tracks(tmp_path: Path) -> None:
    subprocess.run(["uv", "build", "--wheel", "--out-dir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    tracked = subprocess.run(["git", "ls-files", "project", "configs"], cwd=ROOT, check=True, capture_output=True)
    files = {re.sub("^configs/", "project/configs/", name) for name in tracked.stdout.decode().splitlines()}
    assert names == files
