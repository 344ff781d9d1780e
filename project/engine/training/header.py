"""The header of a fit in the terminal: its data, its model, its devices and its run, before the first batch."""

import sys
from shutil import get_terminal_size
from textwrap import fill

import torch

from project.engine.cli.fit_cli import FitCLI
from project.engine.runtime.devices import usable_cores
from project.engine.tracking.logger import MLflowLogger
from project.engine.training.describing import parameters_text

_COLUMNS, _LABEL_WIDTH = 80, 8


def print_fit(cli: FitCLI) -> None:
    """Print what is trained on what data and devices. Data that declares nothing has only its name."""
    found = cli.data.found() or [cli.data.name]
    print_line("data", found[0])
    # The header has six lines: what was left out takes the place of the counts per class.
    for line in found[-1:] if len(found) > 2 else found[1:]:
        print_line("", line)
    print_line("model", _model(cli))
    print_line("device", f"{_devices(cli)}, {_batch(cli)}")


def print_run(logger: MLflowLogger | None, *, resumed: bool) -> None:
    """Print the name of the run, and the command that shows it.

    Args:
        logger: The logger, after the start of the run; None if nothing is tracked.
        resumed: Whether the run existed before.
    """
    if logger is None:
        print_line("run", "not tracked")
    else:
        after = f"{' (resumed)' if resumed else ''}; live: python -m project.ui"
        width = _COLUMNS - _LABEL_WIDTH - len(after)
        name = logger.run_name
        print_line("run", (name if len(name) <= width else f"{name[: width - 1].rstrip('…')}…") + after)


def print_line(label: str, text: str) -> None:
    """Print a line with a label; a terminal gets lines of its width, a file one line."""
    line = f"{label:<{_LABEL_WIDTH}}{text}"
    if sys.stdout.isatty():
        line = fill(line, get_terminal_size().columns, subsequent_indent=" " * _LABEL_WIDTH, break_on_hyphens=False)
    print(line, flush=True)


def _model(cli: FitCLI) -> str:
    name, kind = cli.net_name, type(cli.model).__name__
    return f"{name if name == kind else f'{name} ({kind})'}, {parameters_text(cli.model)}"


def _devices(cli: FitCLI) -> str:
    trainer, device = cli.trainer, cli.trainer.strategy.root_device
    count = trainer.world_size
    if device.type == "cpu":
        cores = usable_cores()
        name = f"CPU with {cores} cores" if count == 1 else f"{count} processes on {cores} CPU cores"
    else:
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        name = kind if count == 1 else f"{count} x {kind}"
    nodes = f" on {trainer.num_nodes} nodes" if trainer.num_nodes > 1 else ""
    return f"{name}{nodes}, strategy {cli.strategy_name}, {trainer.precision}"


def _batch(cli: FitCLI) -> str:
    """Return the number of samples in an optimizer step, if the data has a batch size."""
    size = getattr(cli.datamodule, "batch_size", None)
    if not isinstance(size, int):
        return "batches of the data's size"
    ranks, accumulated = cli.trainer.world_size, cli.trainer.accumulate_grad_batches
    factors = [f"{ranks} x {size}"] * (ranks > 1) or [str(size)]
    factors += [f"{accumulated} steps"] * (accumulated > 1)
    total = ranks * size * accumulated
    return f"batch {total:,}" + (f" ({' x '.join(factors)})" if total > size else "")
