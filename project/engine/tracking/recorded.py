"""The records of a run about its settings, code, packages, data and devices, and the differences between runs."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from project.engine.tracking.experiments import artifact_text
from project.engine.tracking.provenance import DIFF, PACKAGES, git_state, packages
from project.engine.tracking.secrets import redact
from project.engine.tracking.tags import CHANGED, COMMIT, DEVICES, DIRTY, current_settings

ABSENT = "—"
"""Text of a value that a run does not have."""
_COUNT = "num_"

Facts = Mapping[str, str]
"""Values as text, by name."""


class Difference(NamedTuple):
    """A fact whose value is not the same for all runs.

    Attributes:
        kind: What it belongs to, such as `packages`.
        name: Its name.
        values: Its value for each run.
    """

    kind: str
    name: str
    values: tuple[str, ...]


Records = Mapping[str, Facts]
"""Facts about a run, by kind; a kind is empty if the run did not record it."""


def recorded(client: MlflowClient, run: Run) -> Records:
    """Read what a run recorded of its settings, code, packages, data and devices, and of its resumption."""
    tags, run_id = run.data.tags, run.info.run_id
    diff = artifact_text(client, run_id, DIFF) if tags.get(DIRTY) == "true" else ""
    data: Facts = {}
    if inputs := [one.dataset for one in run.inputs.dataset_inputs] if run.inputs else []:
        profile = json.loads(inputs[0].profile or "{}")
        sizes = {key.removeprefix(_COUNT): value for key, value in profile.items() if key.startswith(_COUNT)}
        data = data_facts(inputs[0].name, ", ".join(sorted(one.digest for one in inputs)), sizes)
    return {
        "settings": current_settings(run),
        "code": _code_facts(tags, diff),
        "packages": package_facts(artifact_text(client, run_id, PACKAGES)),
        "data": data,
        "devices": {DEVICES: tags[DEVICES]} if DEVICES in tags else {},
        "resumption": _resumption_facts([tag.removeprefix(CHANGED) for tag in tags if tag.startswith(CHANGED)]),
    }


def recorded_now(data: Facts, devices: str) -> Records:
    """Return the facts about this process, without its settings.

    Args:
        data: See `data_facts`.
        devices: Number and kind of the devices.
    """
    tags, diff = git_state()
    return {
        "code": _code_facts(tags, redact(diff)),
        "packages": package_facts(packages()),
        "data": data,
        "devices": {DEVICES: devices},
        "resumption": _resumption_facts([]),
    }


def data_facts(name: str, digest: str, sizes: Mapping[str, object]) -> Facts:
    """Return the facts about data: its name, its digest if it has one, and the number of samples in each split."""
    counts = {f"samples of {split}": str(size) for split, size in sizes.items()}
    return {"name": name, **({"digest": digest} if digest else {}), **counts}


def package_facts(lines: str) -> Facts:
    """Return the version of each package in lines `name==version`."""
    pairs = (line.partition("==") for line in lines.splitlines() if "==" in line)
    return {name.lower(): version for name, _, version in pairs}


def differences(records: Sequence[Records]) -> Iterator[Difference]:
    """Yield what differs, in the order of the names; a kind that a run did not record at all is one difference."""
    for kind in records[-1]:  # `recorded_now` has no settings.
        facts = [record[kind] for record in records]
        if not all(facts):
            if any(facts):
                yield Difference(kind, "record", tuple("present" if each else ABSENT for each in facts))
            continue
        for name in sorted({name for each in facts for name in each}):
            values = tuple(each.get(name, ABSENT) for each in facts)
            if len(set(values)) > 1:
                yield Difference(kind, name, values)


def _resumption_facts(changed: Sequence[str]) -> Facts:
    """Return the settings that changed when the run was resumed; its earlier steps had other values."""
    return {"settings changed by --resume": ", ".join(sorted(changed)) or "none"}


def _code_facts(tags: Facts, diff: str) -> Facts:
    if COMMIT not in tags:
        return {}
    digest = hashlib.sha256(diff.encode()).hexdigest()[:8]
    changes = f"{len(diff.splitlines())} lines, digest {digest}" if tags.get(DIRTY) == "true" else "none"
    return {"commit": tags[COMMIT], "uncommitted changes": changes}
