"""The option that a person may have meant by an unknown one; this module imports no library."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# Likeness of two names, in [0, 1]: `dropot` and `dropout` have 0.92, `pretrained` and `padding` 0.47.
_NEAR = 0.75
_NEAR_ELSEWHERE = 0.88
OTHER_NAMES = {
    "amp": "precision", "bs": "batch_size", "ckpt_path": "resume", "epochs": "max_epochs", "fp16": "precision",
    "gpus": "devices", "grad_clip": "gradient_clip_val", "learning_rate": "lr", "n_gpus": "devices",
    "num_workers": "workers.num", "scheduler": "lr_schedule", "seed": "seed_everything", "steps": "max_steps",
    "val_split": "val_fraction", "wd": "weight_decay", "workers": "workers.num",
}  # fmt: skip
"""The last part of an option, by the name that other projects have for it."""


def children(parent: str, names: Iterable[str]) -> list[str]:
    """Return the names of the options that an option has, without those of their own options."""
    prefix = f"{parent}." if parent else ""
    return sorted({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})


def suggestion(option: str, siblings: Sequence[str], names: Sequence[str]) -> str:
    """Name the nearest option; if none is near, the options of the same object.

    Args:
        option: The unknown option, without dashes.
        siblings: Options of the same object, without its name.
        names: All options.
    """
    parent, dot, name = option.replace("-", "_").rpartition(".")
    if own := children(option, names):
        return f"it has the options {', '.join(f'--{option}.{one}' for one in own)}"
    end = OTHER_NAMES.get(name)
    if end and (found := [other for other in names if f".{other}".endswith(f".{end}")]):
        return f"did you mean --{min(found, key=lambda one: (not one.startswith(f'{parent}.'), len(one)))}?"
    siblings = [sibling for sibling in siblings if f"{parent}{dot}{sibling}" != option]
    if nearest := get_close_matches(name, siblings, n=1, cutoff=_NEAR):
        return f"did you mean --{parent}{dot}{nearest[0]}?"
    last = {other.rpartition(".")[2]: other for other in reversed(names) if other != option}
    if nearest := get_close_matches(name, last, n=1, cutoff=_NEAR_ELSEWHERE):
        return f"did you mean --{last[nearest[0]]}?"
    if siblings and parent:
        return f"options of {parent} are {', '.join(siblings)}"
    return "see python -m project.fit --help"


def question(name: str, names: Sequence[str]) -> str:
    """Return ` (did you mean NAME?)` with the nearest name, or an empty text."""
    written = {one.lower(): one for one in reversed(names)}
    matches = get_close_matches(name.lower(), written, n=1)
    return f" (did you mean {written[matches[0]]}?)" if matches else ""
