"""Images per second of loading, ours and its peers in turn, on files that the benchmark makes.

python -m benchmarks.loading --rounds 5

Everyone has a process of its own, which is stopped while the others have their turn: FFCV's threads, for one, go on
when its epoch is over, and would take a third of the speed of whoever comes next.

Rows: `JPEG`, files of 400x320 -> a random part resized to 224, flip, normalise, beside decoding alone, which no loader
with this decoder can be faster than; `cache`, the same from pixels that were decoded before, of 256 a side; `small`,
32x32 -> crop with padding 4, flip, normalise; `training`, a CNN that trains on them on the CPU for an epoch of 32
steps; `wait`, how many percent of its time it waits; `memory`, what loading holds. Prints a JSON object for each round
of a row, and a table. The files are parts of scikit-learn's two photographs. DALI's CPU pipeline, SPDL, LitData and
FFCV take part where they are installed; see benchmarks/loading/peers.py.
"""

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from benchmarks.loading.measures import speed, training, waiting
from benchmarks.loading.memory import growth
from benchmarks.loading.ours import folder, ours
from benchmarks.loading.overlap import overlap
from benchmarks.loading.peers import (
    CACHED,
    JPEGS,
    PACKAGES,
    WORKERS,
    by_dataloader,
    installed,
    torchvision_folder,
)
from benchmarks.loading.small import SHIFTED, Small, SmallByImage
from benchmarks.turns import Measure, in_turn

ROWS = JPEG, CACHE, SMALL, TRAINING, WAITING, MEMORY = "JPEG", "cache", "small", "training", "wait", "memory"
SMALL_BATCH = 512


def make_files(root: Path, count: int) -> None:
    """Write JPEGs of 400x320 pixels, quality 92: photographs with other framing."""
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for split, images in (("train", count), ("val", 64)):
        for label in (0, 1):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            photograph = photographs[label]
            for index in range(images // 2):
                height = int(photograph.height * random.uniform(0.65, 1.0))
                width = int(height * 1.25)
                x, y = random.integers(photograph.width - width + 1), random.integers(photograph.height - height + 1)
                part = photograph.crop((int(x), int(y), int(x) + width, int(y) + height)).resize(
                    (400, 320), Image.Resampling.BICUBIC
                )
                part.save(folder / f"{index}.jpg", quality=92)


def rows(root: Path) -> dict[str, dict[str, Callable[[], Measure]]]:
    """Who takes part in which row."""
    decoding = {"ours": partial(folder, root, "off")} | {name: partial(make, root) for name, make in JPEGS.items()}
    decoded = {"ours": partial(folder, root, "on")} | {name: partial(make, root) for name, make in CACHED.items()}
    small = {
        "ours": partial(ours, Small(batch_size=SMALL_BATCH, augmentation=SHIFTED)),
        "DataLoader": partial(by_dataloader, SmallByImage(10_000), SMALL_BATCH),
    }
    return {
        # The cores belong to those that decode and resize.
        JPEG: {name: partial(speed, make, 1) for name, make in decoding.items() if installed(name)},
        CACHE: {name: partial(speed, make, 1) for name, make in decoded.items() if installed(name)},
        SMALL: {name: partial(speed, make, WORKERS) for name, make in small.items()},
        TRAINING: {"ours": partial(training, peer=False), "DataLoader": partial(training, peer=True)},
        WAITING: {"ours": partial(waiting, peer=False), "DataLoader": partial(waiting, peer=True)},
    }


def spread(values: Iterable[float]) -> str:
    """Least, median and most."""
    ordered = sorted(values)
    digits = 0 if ordered[-1] >= 100 else 2
    return " / ".join(f"{value:,.{digits}f}" for value in (ordered[0], statistics.median(ordered), ordered[-1]))


def compare(root: Path, chosen: Iterable[str], rounds: int) -> None:
    """Run the rounds of the chosen rows, print what they measured."""
    table = Table("work", "who", "images a second: least / median / most", "ours / theirs", title="loading")
    for row, makes in rows(root).items():
        if row in chosen:
            results = in_turn(row, makes, rounds)
            for name in makes:
                ratios = "" if name == "ours" or row == WAITING else spread(r["ours"] / r[name] for r in results)
                table.add_row(row, name, spread(result[name] for result in results), ratios)
    Console().print(table)
    if torch.cuda.is_available():
        print(json.dumps({"ms a step on the GPU": overlap()}))
    if MEMORY in chosen:
        print(json.dumps({"memory in MiB after the first and the last of 20 epochs": memory(root)}))


def memory(root: Path) -> dict[str, dict[str, float]]:
    """What loading holds, each in a process of its own."""
    makes = {
        "ours, 256 px cache": partial(folder, root, "on"),
        "ours, JPEG": partial(folder, root, "off"),
        "DataLoader, JPEG": partial(torchvision_folder, root),
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        return {name: alone.submit(growth, make).result() for name, make in makes.items()}


def main() -> None:
    """Make the files, run the rounds, print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=ROWS, help=f"some of {', '.join(ROWS)}")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        root = Path(name)
        os.chdir(root)
        make_files(root, options.images)
        if missing := [name for name in PACKAGES if not installed(name)]:
            print(f"not installed, left out: {', '.join(missing)}")
        compare(root, options.only or ROWS, options.rounds)


if __name__ == "__main__":
    main()
