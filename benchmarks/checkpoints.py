"""Benchmark of the time that training waits for a checkpoint: ours, Lightning's, and Lightning's asynchronous one.

python -m benchmarks.checkpoints
python -m benchmarks.checkpoints --quick

The state is a ResNet-18 with AdamW (weights and two momenta, 134 MB). Prints the lines of benchmarks/lines.py and a
table. `copy` is the time to copy the state: a consistent checkpoint cannot take less.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.lines import make_parser, report, rounds_of
from project.engine.checkpoints.durable import DurableCheckpointIO

_BETWEEN_SAVES_S = 2.0


def make_resnet18_state() -> dict[str, Any]:
    """Make the content of a checkpoint after one step."""
    model = resnet18()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 1}


def seconds(work: Callable[[], object]) -> float:
    """Measure the seconds of one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


def one_round(state: dict[str, Any], folder: Path, pause_s: float = 0) -> dict[str, float]:
    """Measure the milliseconds that the caller waits for each kind of saving, with a pause after each."""
    waits = {"copy": seconds(lambda: apply_to_collection(state, Tensor, lambda t: t.detach().to("cpu", copy=True)))}
    for name, storage in (
        ("ours", DurableCheckpointIO()),
        ("lightning", TorchCheckpointIO()),
        ("lightning async", AsyncCheckpointIO(TorchCheckpointIO())),
    ):
        path = folder / f"{name}.ckpt"
        waits[name] = seconds(lambda storage=storage, path=path: storage.save_checkpoint(state, path))  # type: ignore[misc]
        storage.teardown()
        sleep(pause_s)
    return {name: value * 1000 for name, value in waits.items()}


def main(argv: Sequence[str]) -> None:
    """Run the rounds in an empty folder, and print the lines and the table."""
    args = make_parser("benchmarks.checkpoints", __doc__, 5, "one round, without pauses for the disk").parse_args(argv)
    state = make_resnet18_state()
    with tempfile.TemporaryDirectory() as folder:
        one_round(state, Path(folder))  # The first save also creates files and threads, so it is not counted.
        pause_s = 0 if args.quick else _BETWEEN_SAVES_S
        results = [one_round(state, Path(folder), pause_s) for _ in range(rounds_of(args))]
    report("wait for a checkpoint", results, "ms", "lightning")


if __name__ == "__main__":
    main(sys.argv[1:])
