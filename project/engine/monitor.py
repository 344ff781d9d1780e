"""The metric that selects the best checkpoint, and whether small or large values of it are better."""

from difflib import get_close_matches
from typing import get_args

from lightning import LightningModule

from project.engine.task import Mode, Task


def declared(model: LightningModule) -> tuple[str | None, Mode | None]:
    """Return the metric that a model declares for selecting the best checkpoint, and its direction."""
    # Other classes may use these names for something else.
    monitor, mode = getattr(model, "monitor", None), getattr(model, "mode", None)
    monitor = monitor if isinstance(monitor, str) else None
    mode = mode if mode in get_args(Mode) else None
    if isinstance(model, Task) and monitor:
        mode = model.mode_of(monitor) or mode
    return monitor, mode


def monitored(model: LightningModule, monitor: str | None, mode: Mode | None) -> tuple[str | None, Mode | None]:
    """Return the metric that selects the best checkpoint, and whether small or large values of it are better.

    Args:
        model: Declares both by its attributes `monitor` and `mode`, unless it is a `Task`, which knows its metrics.
        monitor: The metric, if it is given.
        mode: Whether small or large values are better, if it is given.

    Raises:
        ValueError: The model does not log the metric, or nothing declares the direction.
    """
    own_monitor, own_mode = declared(model)
    monitor = monitor or own_monitor
    if monitor is None:
        return None, None
    if monitor == own_monitor:
        mode = mode or own_mode
    if isinstance(model, Task):
        names = sorted(name for name in model.logged_metrics() if name.startswith("val/") or name == "train/loss")
        if monitor not in names:
            nearest = get_close_matches(monitor, names, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise ValueError(f"--checkpoint.monitor: got {monitor}{hint}; it may be {', '.join(names)}")
        mode = mode or model.mode_of(monitor)
    mode = mode or ("min" if monitor.endswith("loss") else None)
    if mode is None:
        if isinstance(other := getattr(model, "mode", None), str) and monitor == own_monitor:
            raise ValueError(f"{type(model).__name__}.mode: got {other!r}; give min or max")
        raise ValueError(
            f"--checkpoint.mode: got nothing, but {type(model).__name__} does not declare whether small or large "
            f"values of {monitor} are better; give min or max"
        )
    return monitor, mode
