"""Files that nothing needs any more: checkpoints, caches of images, and spools.

A run that is running, or has undelivered records, keeps everything. So does a run that is registered.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from project.engine.runtime.places import cache_of
from project.engine.tracking import store
from project.engine.tracking.spool import LOG
from project.engine.tracking.tags import BEST_RUN, COMMAND, PARETO_TRIALS, RESUMED, STATE, STUDY, TRIAL

_STALE_AFTER_S = 3600.0
"""A folder that a process writes has changed within this time."""


class Unneeded(NamedTuple):
    """A folder that nothing needs.

    Attributes:
        path: Its path.
        reason: Why nothing needs it.
        size: Bytes on the disk that its removal frees.
    """

    path: Path
    reason: str
    size: int


def find_unneeded(client: MlflowClient) -> list[Unneeded]:
    """Return what nothing needs in the folder of runs.

    The checkpoints of a run that is not in this store are kept, because it may be in another one.

    Args:
        client: Client of the store.

    Raises:
        MlflowException: The store does not respond.
    """
    folders = sorted(store.checkpoint_folder("").glob("*/"))  # Before the runs: a new run's folder is not listed.
    runs = _all_runs(client)
    kept = {version.run_id for version in client.search_model_versions()}
    return [*_checkpoints(folders, runs, kept), *_caches(runs), *_spools()]


def remove(unneeded: Unneeded) -> None:
    """Remove a folder.

    Raises:
        OSError: It cannot be removed.
    """
    shutil.rmtree(unneeded.path)


def _all_runs(client: MlflowClient) -> dict[str, Run]:
    ids = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
    runs, token = dict[str, Run](), None
    while True:
        page = client.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000, page_token=token)
        runs |= {run.info.run_id: run for run in page}
        if not (token := page.token):
            return runs


def _checkpoints(folders: list[Path], runs: dict[str, Run], kept: set[str | None]) -> Iterator[Unneeded]:
    for folder in folders:
        run = runs.get(folder.name)
        if run is None or run.info.run_id in kept or folder.is_symlink():
            continue
        if run.info.status in ("RUNNING", "SCHEDULED") or store.spool_folder(run.info.run_id).exists():
            continue
        if reason := _reason(run, runs):
            yield Unneeded(folder, reason, _size(folder))


def _reason(run: Run, runs: dict[str, Run]) -> str:
    """Return why nothing needs the checkpoints of a run that has ended; empty if they are needed."""
    if run.info.lifecycle_stage == "deleted":
        return "its run is deleted"
    study = runs.get(run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""))
    if study is None or STATE not in run.data.tags or study.info.status != "FINISHED":
        return ""
    tags, number = study.data.tags, run.data.tags.get(TRIAL)
    command = tags.get(RESUMED, tags.get(COMMAND, ""))
    if re.search(r"--keep_checkpoints[ =]all\b", command) or not {BEST_RUN, PARETO_TRIALS} & tags.keys():
        return ""
    if tags.get(BEST_RUN) == run.info.run_id or number in tags.get(PARETO_TRIALS, "").split(", "):
        return ""
    return f"trial {number} was not the best of {tags.get(STUDY, 'its study')}"


def _caches(runs: dict[str, Run]) -> Iterator[Unneeded]:
    """Yield the caches of images that are gone; the caches of changed images are replaced when they are used."""
    used = [one.dataset for run in runs.values() if run.inputs for one in run.inputs.dataset_inputs]
    sources = {json.loads(dataset.source or "{}").get("uri", "") for dataset in used}
    for root in sorted(Path(uri) for uri in sources if uri and "://" not in uri):
        cache = cache_of(root)
        if not root.exists() and cache.is_dir():
            yield Unneeded(cache, f"its images, {root}, are gone", _size(cache))


def _spools() -> Iterator[Unneeded]:
    """Yield the spools without records; delivered ones are removed by each command that delivers."""
    for folder in sorted(store.spool_folder("").glob("*/")):
        if not (folder / LOG).exists() and time() - folder.stat().st_mtime > _STALE_AFTER_S:
            yield Unneeded(folder, "a spool without records", _size(folder))


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; a file with several names counts once."""
    stats = {
        (found.st_dev, found.st_ino): found.st_size
        for path in folder.rglob("*")
        if not path.is_dir() and (found := path.lstat())
    }
    return sum(stats.values())
