"""The names of a run on the command line: an id, the beginning of one, `latest`, `best`, or a registered model."""

import os
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from project.engine.tracking import store
from project.engine.tracking.experiments import NEWEST_FIRST, find_run, newest_runs
from project.engine.tracking.names import score_text
from project.engine.tracking.registered import model_id, models_of_best
from project.engine.tracking.secrets import redact
from project.engine.tracking.tags import COMMAND, MONITOR, monitored

RUN_HELP = "a run id or the beginning of one, latest, best, best:EXPERIMENT, or models:/NAME@ALIAS"

_WORDS = ("latest", "best")
_FIT = f"tags.{COMMAND} LIKE 'python -m project.fit%'"
_FINISHED_FIT = f"attributes.status = 'FINISHED' and {_FIT}"
_ID = re.compile("[0-9a-f]{1,32}")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_MOST_NAMED = 3


class FoundRun(NamedTuple):
    """A run, and why a reference means it; empty if the reference is its id."""

    run: Run
    reason: str


def find(client: MlflowClient, reference: str, *, finished: bool = True) -> FoundRun:
    """Look up the run that a reference means.

    `latest` is the newest finished run of `fit`, also a trial of a sweep. `best` compares the finished runs of an
    experiment by the metric that selects their best checkpoints; without an experiment, it is that of the latest run.

    Args:
        client: Client of the store.
        reference: See `RUN_HELP`.
        finished: Whether the latest run must be finished; other references mean a run of any status.

    Raises:
        ValueError: The reference means no run, or several.
    """
    word, _, experiment = reference.partition(":")
    if reference == "latest":
        return _latest(client, finished=finished)
    if word == "best" and (experiment or reference == word):
        return _best(client, experiment)
    if reference.startswith("models:"):
        return _of_model(client, reference)
    if _ID.fullmatch(reference) and len(reference) < 32:
        return _by_prefix(client, reference)
    if nearest := get_close_matches(word.lower(), _WORDS, n=1):
        raise ValueError(f"got run {reference!r} (did you mean {nearest[0]}?); give {RUN_HELP}")
    return FoundRun(find_run(client, reference), "")


def find_once(reference: str, variable: str, *, finished: bool = True) -> str:
    """Return the id of the run that a reference means, and print why, unless an environment variable has the id.

    The variable is set for the processes that this one starts: `latest` may meanwhile be another run.

    Args:
        reference: See `RUN_HELP`.
        variable: Name of the variable.
        finished: See `find`.

    Raises:
        ValueError: The reference means no run, or several.
        OSError: The store does not respond.
    """
    if (known := os.environ.get(variable)) is None:
        run, reason = find(store.connect_existing(reference), reference, finished=finished)
        os.environ[variable] = known = str(run.info.run_id)
        if reason:
            print(f"run {known} ({reason})", flush=True)
    return known


def _latest(client: MlflowClient, *, finished: bool = True) -> FoundRun:
    kind = "finished run" if finished else "run"
    runs = newest_runs(client, _FINISHED_FIT if finished else _FIT, most=1)
    if not runs:
        raise ValueError(
            f"latest: {redact(store.tracking_uri())} has no {kind} of project.fit; start from the folder of the run, "
            "or train one: python -m project.fit"
        )
    newer = f"attributes.start_time > {runs[0].info.start_time} and {_FIT}"
    others = newest_runs(client, newer, most=1)
    note = f"; {others[0].info.run_id} is newer, but {others[0].info.status}" if others else ""
    return FoundRun(runs[0], f"the latest {kind}{note}")


def _best(client: MlflowClient, experiment: str) -> FoundRun:
    newest: Sequence[Run]
    if experiment:
        known = {one.name: one.experiment_id for one in client.search_experiments()}
        if experiment not in known:
            nearest = get_close_matches(experiment, known, n=1)
            hint = f" (did you mean best:{nearest[0]}?)" if nearest else f"; it has {', '.join(sorted(known))}"
            raise ValueError(f"best:{experiment}: the store has no such experiment{hint}")
        newest = client.search_runs([known[experiment]], _FINISHED_FIT, max_results=1, order_by=[NEWEST_FIRST])
    else:
        newest = [_latest(client).run]
        experiment = client.get_experiment(newest[0].info.experiment_id).name
    if not newest:
        raise ValueError(f"best:{experiment}: the experiment has no finished run of project.fit")
    metric, mode = monitored(newest[0].data.tags)
    if not metric:
        raise ValueError(
            f"best:{experiment}: its latest run, {newest[0].info.run_id}, has no metric that selects the best "
            "checkpoint; give the id of a run"
        )
    order = [f"metrics.`best/{metric}` {'DESC' if mode == 'max' else 'ASC'}", NEWEST_FIRST]
    same = f"{_FINISHED_FIT} and tags.{MONITOR} = '{metric} ({mode})'"
    best = client.search_runs([newest[0].info.experiment_id], same, max_results=1, order_by=order)[0]
    value = best.data.metrics.get(f"best/{metric}")
    return FoundRun(best, f"the best of {experiment}, with {metric} {score_text(value)}" if value is not None else "")


def _by_prefix(client: MlflowClient, prefix: str) -> FoundRun:
    runs = newest_runs(client, f"attributes.run_id LIKE '{prefix}%'", most=_MOST_NAMED)
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id for run in runs)
        raise ValueError(f"got run {prefix!r}, but several ids begin with it, such as {ids}; add characters")
    return FoundRun(runs[0] if runs else find_run(client, prefix), "")


def _of_model(client: MlflowClient, reference: str) -> FoundRun:
    if (match := _MODEL.fullmatch(reference)) is None:
        raise ValueError(f"got {reference!r}; a registered model is models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        models = [model.name for model in client.search_registered_models()]
        raise ValueError(
            f"got {reference!r}, but {store.reason(error)}; the registered models are: {', '.join(models) or 'none'}"
        ) from error
    if not version.run_id:
        raise ValueError(f"{reference}: version {version.version} was registered without its run; give the run's id")
    run = find_run(client, version.run_id)
    stored = model_id(version)
    if stored and all(stored != model.model_id for model in models_of_best(client, run)):
        raise ValueError(
            f"{reference}: run {run.info.run_id} was resumed, and has another best checkpoint than version "
            f"{version.version}; give the id of the run to use the newer checkpoint, or register it: "
            f"python -m project.evaluate {run.info.run_id} --register {shlex.quote(name)}"
        )
    return FoundRun(run, f"version {version.version} of {name}")
