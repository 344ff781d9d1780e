"""Benchmark of loading: images per second of ours and of other libraries, on files that the benchmark makes.

python -m benchmarks.loading --rounds 5

Each library has its own process, which is stopped while another one is measured. For example, FFCV's threads continue
after its epoch, and would slow down the next library by a third.

Prints a JSON object for each round of a row, and a table. The rows:

- `JPEG`: files of 400x320 -> random crop resized to 224, flip, normalise. "decoding only" is the upper bound for any
  loader with this decoder
- `cache`: the same, from images that were decoded before and have 256 pixels a side
- `small`: images of 32x32 -> crop with padding 4, flip, normalise
- `training`: a CNN trained on the small images on the CPU, for an epoch of 32 steps
- `wait`: the percentage of its time that this training waits for batches
- `memory`: memory that loading holds

The files are parts of scikit-learn's two photographs. DALI's CPU pipeline, SPDL, LitData and FFCV are measured if they
are installed; see benchmarks/loading/peers.py.
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

from benchmarks.alternating import Measure, measure_alternately
from benchmarks.loading.measures import speed, training, waiting
from benchmarks.loading.memory import memory_growth
from benchmarks.loading.ours import datamodule_epoch, image_folder_epoch
from benchmarks.loading.overlap import measure_overlap
from benchmarks.loading.peers import (
    CACHED,
    JPEGS,
    PACKAGES,
    WORKERS,
    dataloader_epoch,
    installed,
    torchvision_folder,
)
from benchmarks.loading.small import SMALL_AUGMENTATION, SmallImages, SmallPillowImages

ROWS = JPEG, CACHE, SMALL, TRAINING, WAITING, MEMORY = "JPEG", "cache", "small", "training", "wait", "memory"
SMALL_BATCH = 512


def make_files(root: Path, count: int) -> None:
    """Write JPEGs of 400x320 pixels with quality 92: random crops of the photographs."""
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
    """Return the candidates of each row, each with the function that prepares its measurement."""
    decoding = {"ours": partial(image_folder_epoch, root, "off")} | {
        name: partial(make, root) for name, make in JPEGS.items()
    }
    decoded = {"ours": partial(image_folder_epoch, root, "on")} | {
        name: partial(make, root) for name, make in CACHED.items()
    }
    small = {
        "ours": partial(datamodule_epoch, SmallImages(batch_size=SMALL_BATCH, augmentation=SMALL_AUGMENTATION)),
        "DataLoader": partial(dataloader_epoch, SmallPillowImages(10_000), SMALL_BATCH),
    }
    return {
        # One thread of torch leaves the cores to the threads that decode and resize.
        JPEG: {name: partial(speed, make, 1) for name, make in decoding.items() if installed(name)},
        CACHE: {name: partial(speed, make, 1) for name, make in decoded.items() if installed(name)},
        SMALL: {name: partial(speed, make, WORKERS) for name, make in small.items()},
        TRAINING: {"ours": partial(training, peer=False), "DataLoader": partial(training, peer=True)},
        WAITING: {"ours": partial(waiting, peer=False), "DataLoader": partial(waiting, peer=True)},
    }


def spread(values: Iterable[float]) -> str:
    """Format the minimum, median and maximum."""
    ordered = sorted(values)
    digits = 0 if ordered[-1] >= 100 else 2
    return " / ".join(f"{value:,.{digits}f}" for value in (ordered[0], statistics.median(ordered), ordered[-1]))


def compare(root: Path, chosen: Iterable[str], rounds: int) -> None:
    """Measure the chosen rows, and print a table."""
    table = Table("work", "library", "images per second: minimum / median / maximum", "ours / theirs", title="loading")
    for row, makes in rows(root).items():
        if row in chosen:
            results = measure_alternately(row, makes, rounds)
            for name in makes:
                ratios = "" if name == "ours" or row == WAITING else spread(r["ours"] / r[name] for r in results)
                table.add_row(row, name, spread(result[name] for result in results), ratios)
    Console().print(table)
    if torch.cuda.is_available():
        print(json.dumps({"ms per step on the GPU": measure_overlap()}))
    if MEMORY in chosen:
        print(json.dumps({"memory in MiB after the first and the last of 20 epochs": memory(root)}))


def memory(root: Path) -> dict[str, dict[str, float]]:
    """Measure the memory that loading holds, each source in its own process."""
    makes = {
        "ours, 256 px cache": partial(image_folder_epoch, root, "on"),
        "ours, JPEG": partial(image_folder_epoch, root, "off"),
        "DataLoader, JPEG": partial(torchvision_folder, root),
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        return {name: alone.submit(memory_growth, make).result() for name, make in makes.items()}


def main() -> None:
    """Make the files, and measure the chosen rows."""
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
            print(f"not installed, therefore not measured: {', '.join(missing)}")
        compare(root, options.only or ROWS, options.rounds)


if __name__ == "__main__":
    main()
