"""The run that `--rerun` repeats, and what has changed since then."""

from itertools import groupby
from operator import attrgetter

from project.engine.cli.fit_cli import FitCLI
from project.engine.tracking import experiments, store
from project.engine.tracking.recorded import data_facts, differences, recorded, recorded_now
from project.engine.tracking.run_reference import find_once
from project.engine.training.describing import devices_text

RERUN_OF = "rerun_of"
"""Tag of a run: the run whose settings it repeats."""

_CHILDREN_USE = "PROJECT_REPEATED_RUN"
_MOST_NAMED = 5
_LONGEST = 40


def find_repeated_run(reference: str) -> tuple[str, str]:
    """Return the id and the settings as YAML of a run; see `project.engine.tracking.run_reference`.

    Raises:
        ValueError: The run does not exist, or was not made by `fit`.
        OSError: The store does not respond.
    """
    run_id = find_once(reference, _CHILDREN_USE)
    return run_id, experiments.settings_of(run_id)


def changes_since(run_id: str, cli: FitCLI) -> list[str]:
    """Return a line for each kind of facts that differs from the run; none if the metrics should be the same.

    Args:
        run_id: The repeated run.
        cli: The fit, with its data.
    """
    client = store.connect()
    now = recorded_now(data_facts(cli.data.name, cli.data.digest(), cli.data.sizes()), devices_text(cli.trainer))
    found = differences([recorded(client, client.get_run(run_id)), now])
    lines = []
    for kind, group in groupby(found, key=attrgetter("kind")):
        texts = [f"{name} {before[:_LONGEST]} -> {after[:_LONGEST]}" for _, name, (before, after) in group]
        more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
        lines.append(f"warning: other {kind}: {', '.join(texts[:_MOST_NAMED])}{more}")
    return lines
