"""Benchmark of parallel processing and asynchronous operation: the same training with each option of both.

python -m benchmarks.concurrency                   # every cell, five rounds: half an hour on two cores
python -m benchmarks.concurrency --quick           # one short round: two minutes on two idle cores
python -m benchmarks.concurrency --images DIR      # DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, such as CIFAR-10
python -m benchmarks.concurrency --only sequential "all asynchronous"

All cells train the same CNN on the same JPEGs, by default the digits of scikit-learn, with 64 images in each step, and
log each step. A cell is a `project.fit` with options or a `project.sweep` of seeds, and each of its runs is in the
MLflow experiment `concurrency`: `python -m project.ui` compares them. In each round, the cells run in a random order.
Prints the lines of benchmarks/lines.py and a table.
"""

import argparse
import os
import random
import shutil
import sys
import uuid
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from benchmarks.concurrency.cells import Cell, make_cells
from benchmarks.concurrency.report import (
    Round,
    draw,
    hardware,
    markdown,
    print_figures,
    replace_figures,
    sentence,
    table,
)
from benchmarks.concurrency.running import EXPERIMENT, Work, run, set_environment
from benchmarks.lines import make_parser, rounds_of
from project.engine.compat import preloaded_forkserver
from project.engine.runtime.devices import usable_cores
from project.engine.tracking import store

ROOT = Path(__file__).parents[2]
PAGE, FIGURE = ROOT / "docs/concurrency.md", ROOT / "docs/images/concurrency.png"
COMMON = [
    "--data=image_folder", "--data.cache=off", "--data.image_size=32", "--data.augmentation.crop_padding=2",
    "--model.net.widths=[16,16,32,32]", "--model.net.hidden=256", "--trainer.log_every_n_steps=1",
    "--trainer.limit_test_batches=0", "--trainer.enable_progress_bar=false",
]  # fmt: skip
FULL = ["--max_epochs=6", "--trainer.limit_train_batches=20", "--trainer.limit_val_batches=4"]
QUICK = ["--max_epochs=3", "--trainer.limit_train_batches=8", "--trainer.limit_val_batches=2"]


def write_digits(root: Path) -> None:
    """Write the digits of scikit-learn as JPEGs of 128x128 pixels, every fifth into test."""
    images, labels = load_digits(return_X_y=True)
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / ("train" if index % 5 else "test") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels.reshape(8, 8) * 255 / 16).astype("uint8"))
        image.resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=92)


def process_counts() -> list[int]:
    """Return 1, 2 and the number of devices: GPUs, or CPU cores."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else max(2, usable_cores())
    return [count for count in sorted({1, 2, devices}) if count <= devices]


def measure(cells: Sequence[Cell], work: Work, number: int, console: Console) -> Round:
    """Run the cells once, in a random order, and print a line about each."""
    measured = {}
    for cell in random.sample(cells, len(cells)):
        measured[cell.name] = run(cell, work, number)
        numbers = ", ".join(f"{name} {value:,.1f}" for name, value in measured[cell.name].items())
        console.print(f"round {number}, {cell.name}: {numbers}", style="dim", soft_wrap=True)
    return measured


def chosen(names: Sequence[str] | None) -> list[Cell]:
    """Return the cells of these names and their peers, or all cells.

    Raises:
        ValueError: There is no such cell.
    """
    cells = make_cells(process_counts(), compiler=torch.cuda.is_available() or bool(shutil.which("g++")))
    if unknown := sorted(set(names or ()) - {cell.name for cell in cells}):
        raise ValueError(f"--only: got {unknown[0]!r}; the cells are {', '.join(cell.name for cell in cells)}")
    wanted = {name for cell in cells if not names or cell.name in names for name in (cell.name, cell.peer)}
    return [cell for cell in cells if cell.name in wanted]


def main(argv: Sequence[str]) -> None:
    """Run the rounds, print the lines and the table, and draw the figure."""
    parser = make_parser("benchmarks.concurrency", __doc__, 5, "few steps, and two trials instead of four")
    parser.add_argument("--images", type=Path, help="folder of images; by default, digits as JPEGs")
    parser.add_argument(
        "--accuracy", type=float, help="the accuracy to reach (digits: 0.9, --images: 0.25, --quick: 0.3)"
    )
    parser.add_argument("--only", nargs="+", metavar="CELL", help="names of cells; their peers run, too")
    parser.add_argument("--figure", type=Path, default=store.HOME / "concurrency.png", help="file for the figure")
    parser.add_argument("--page", action="store_true", help="write table and figure into docs/concurrency.md")
    args = parser.parse_args(argv)
    try:
        cells = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    console = Console(stderr=True, highlight=False)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    store.HOME.mkdir(exist_ok=True)
    with (
        TemporaryDirectory() as name,
        set_environment({"PYTHONPATH": paths, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}),
        preloaded_forkserver("project.engine.search.preload"),
    ):
        import_module("project.engine.search.job")  # while the forkserver imports the same
        images = args.images or Path(name, "digits")
        if args.images is None:
            write_digits(images)
        options = [*COMMON, *(QUICK if args.quick else FULL), f"--data.root={images.resolve()}"]
        accuracy = args.accuracy or (0.3 if args.quick else 0.25 if args.images else 0.9)
        logs = store.HOME / "concurrency"
        logs.mkdir(exist_ok=True)
        work = Work(options, 2 if args.quick else 4, accuracy, f"{EXPERIMENT}-{uuid.uuid4().hex[:6]}", logs)
        rounds = [measure(cells, work, number + 1, console) for number in range(rounds_of(args))]
    report(cells, rounds, argv, args, accuracy)


def report(
    cells: Sequence[Cell], rounds: Sequence[Round], argv: Sequence[str], args: argparse.Namespace, accuracy: float
) -> None:
    """Print the lines and the table, and draw the figure."""
    print_figures(cells, rounds)
    console = Console(highlight=False)
    console.print(table(cells, rounds, f"{hardware()}; accuracy {accuracy:g}"))
    for cell in cells:
        console.print(f"{cell.name}: {sentence(cell, rounds)}")
    figure = FIGURE if args.page else args.figure
    draw(cells, rounds).savefig(figure, dpi=80)
    if args.page:
        given = ["DIR" if args.images and Path(word) == args.images else word for word in argv]
        command = " ".join(["python -m benchmarks.concurrency", *given])
        about = f"`{command}`, {len(rounds)} rounds, accuracy {accuracy:g}. {hardware()}."
        replace_figures(PAGE, markdown(cells, rounds, about, str(FIGURE.relative_to(PAGE.parent))))


if __name__ == "__main__":
    main(sys.argv[1:])
