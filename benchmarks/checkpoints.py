"""Benchmark of the time that training waits for a checkpoint: ours, Lightning's, and Lightning's asynchronous one.

python -m benchmarks.checkpoints --rounds 5

The state is a ResNet-18 with AdamW (weights and two momenta, 134 MB). Prints one JSON object per round and a table of
medians. `copy` is the time to copy the state: a consistent checkpoint cannot take less.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.models import resnet18

from project.engine.checkpoints import DurableCheckpointIO

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


def one_round(state: dict[str, Any], folder: Path) -> dict[str, float]:
    """Measure the milliseconds that the caller waits for each kind of saving; the disk is idle before each."""
    waits = {"copy": seconds(lambda: apply_to_collection(state, Tensor, lambda t: t.detach().to("cpu", copy=True)))}
    for name, storage in (
        ("ours", DurableCheckpointIO()),
        ("lightning", TorchCheckpointIO()),
        ("lightning async", AsyncCheckpointIO(TorchCheckpointIO())),
    ):
        path = folder / f"{name}.ckpt"
        waits[name] = seconds(lambda storage=storage, path=path: storage.save_checkpoint(state, path))  # type: ignore[misc]
        storage.teardown()
        sleep(_BETWEEN_SAVES_S)
    return {name: round(value * 1000, 1) for name, value in waits.items()}


def main() -> None:
    """Run the rounds in an empty folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    state = make_resnet18_state()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        one_round(state, Path(folder))  # The first save also creates files and threads, so it is not counted.
        for _ in range(rounds):
            results.append(one_round(state, Path(folder)))
            print(json.dumps(results[-1]), flush=True)
    table = Table("saving", "ms: median", "minimum", "maximum", "relative to copy", title="wait for a checkpoint")
    for name in results[0]:
        waits = [result[name] for result in results]
        ratio = statistics.median(result[name] / result["copy"] for result in results)
        table.add_row(name, f"{statistics.median(waits):.1f}", f"{min(waits):.1f}", f"{max(waits):.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
