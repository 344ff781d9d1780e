"""Names of runs, which begin with what differs, and texts of parameters: short enough for a table."""

import re
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from jsonargparse import Namespace

from project.engine.tracking.secrets import redact_setting

EVALUATION = "eval"
"""Start of the names of what an evaluation adds to a run, such as `eval/test/loss`."""

BEST = "best/"
"""Start of the names of the metrics of the best checkpoint. Each validation logs the best ones so far."""

AVERAGE_SPEED = "throughput/average_samples_per_second"
"""Name of the metric with the average speed of a training.

`project.compare` reads it, and must not import the callback that logs it, which imports torch.
"""

_LONGEST = 60
_RANKS = {"model": 0, "data": 1, "trainer": 2, "checkpoint": 3}
_CUT = "…"


def run_name(subject: str, settings: Mapping[str, Any]) -> str:
    """Return a name such as `resnet18 lr=0.01`; settings that do not fit are left out.

    Args:
        subject: The first words.
        settings: What distinguishes the run from others, by the names of the command line.
    """
    in_order = sorted(settings, key=lambda key: _RANKS.get(key.partition(".")[0], len(_RANKS)))
    count = Counter(key.rpartition(".")[2] for key in settings)
    name, cut = subject[:_LONGEST], ""
    for key in in_order:
        parts = key.split(".")
        label = ".".join(parts[-2:]) if count[parts[-1]] > 1 else parts[-1]
        word = f" {label}={redact_setting(key, short(settings[key]))}"
        if len(name) + len(word) > _LONGEST - len(_CUT):
            cut = _CUT
        else:
            name += word
    return name + cut


def model_name(data: str, net: str) -> str:
    """Return the name of a logged model, such as `digits-cnn`, without characters that MLflow refuses."""
    return re.sub(r"[^\w-]+", "-", f"{data}-{net}")


def metric_name(name: str) -> str:
    """Return the name of a metric in MLflow, which refuses some characters; names with different ones stay different.

    An @ becomes a hyphen alone, because many metrics have it, such as `acc@5`.
    """
    return re.sub(r"[^\w./: -]", lambda found: "-" if found[0] == "@" else f"-x{ord(found[0]):x}-", name)


def score_text(value: float) -> str:
    """Return a metric in six characters or seven, and a minus."""
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e6):
        return f"{value:.1e}"
    return f"{value:.{4 if size < 10 else max(0, 5 - len(f'{size:.0f}'))}f}"


def short(value: Any) -> str:
    """Return a setting as text: a number with three significant digits, a class or a function by its name alone."""
    match value:
        case float():
            return f"{value:.3g}"
        case Namespace():
            return _last_part(str(value.get("class_path", "settings")))
        case list() | tuple():
            return ",".join(map(short, value))
        case Mapping():
            return ",".join(f"{key}:{short(entry)}" for key, entry in value.items())
        case str() if _is_import_path(value):
            return _last_part(value)
    return str(value)


def parameter_text(value: Any) -> str:
    """Return a setting as the text of a parameter; an object is the name of its class with its arguments."""
    match value:
        case Namespace() if "class_path" in value:
            given = vars(value.init_args) if "init_args" in value else {}
            texts = {key: redact_setting(key, parameter_text(one)) for key, one in given.items() if one is not None}
            options = ", ".join(f"{key}={text}" for key, text in texts.items())
            return f"{_last_part(value.class_path)}({options})" if options else _last_part(value.class_path)
        case list() if any(isinstance(entry, Namespace) for entry in value):
            return ", ".join(map(parameter_text, value))
        case dict() if any(isinstance(entry, Namespace) for entry in value.values()):
            return ", ".join(f"{key}: {parameter_text(entry)}" for key, entry in value.items())
    return str(value)


def _is_import_path(text: str) -> bool:
    """Return whether a text is the path of an object in an installed module, and not a file's name."""
    return (
        re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text) is not None and find_spec(text.partition(".")[0]) is not None
    )


def _last_part(path: str) -> str:
    return path.rpartition(".")[2]
