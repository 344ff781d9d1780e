"""Benchmark of the start: from a command to its first output, its answer, and the first training step.

python -m benchmarks.start
python -m benchmarks.start --rounds 5
python -m benchmarks.start --quick

In each round, all commands run one after the other, in a folder with an empty store: first `import lightning, mlflow`,
the peer of all. The first round is not counted; it brings all files into the cache. Prints the lines of
benchmarks/lines.py and a table of the times relative to the peer. All are also measured in seconds of the processor,
which other programs disturb less.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from benchmarks.lines import make_parser, print_line, rounds_of, spread
from project.data import LabelledImages
from project.engine.loading import ImageArray, Split

PEER = "import lightning, mlflow"
_FIRST_STEP = """if True:
    import os, sys
    from project.engine.runtime.startup import begin_command

    begin_command("loading")
    from project.fit import main
    from project.engine.runtime.exit import exit_without_teardown
    from lightning import Callback

    class FirstStep(Callback):
        def on_train_batch_end(self, *_):
            os._exit(0)

    with exit_without_teardown():
        main(sys.argv[1:], [FirstStep()])
"""
COMMANDS: dict[str, list[str]] = {
    PEER: ["-c", PEER],
    "import torch": ["-c", "import torch"],
    "fit of digits, to its first step": ["-c", _FIRST_STEP],
    "fit of random data, to its first step": ["-c", _FIRST_STEP, "--data.class_path=benchmarks.start.Random"],
    "fit --help": ["-m", "project.fit", "--help"],
    "fit, mistyped option": ["-m", "project.fit", "--data.batch_sze", "8"],
    "fit, mistyped choice": ["-m", "project.fit", "--data", "mnits"],
    "fit, wrong value": ["-m", "project.fit", "--max_epochs", "many"],
    "evaluate, no such run": ["-m", "project.evaluate", "0123abcd"],
    "predict, no such run": ["-m", "project.predict", "0123abcd", "image.png"],
    "export, no such run": ["-m", "project.export", "0123abcd"],
    "compare, no such run": ["-m", "project.compare", "0123abcd", "0123abce"],
    "sync": ["-m", "project.sync"],
}
QUICK = (PEER, "fit --help")

Seconds = dict[str, float]


class Random(LabelledImages):
    """A few images of noise, which need no library."""

    name = "random"
    native_size, native_channels = 32, 1
    native_mean, native_std = (0.5,), (0.25,)
    class_names = ("0", "1")

    def load(self, split: Split) -> ImageArray:
        """Draw 512 images; they are the same each time."""
        images = torch.randint(256, (512, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageArray(images, torch.arange(512) % 2)


def run(arguments: list[str], folder: Path) -> Seconds:
    """Run Python; return the seconds to its first byte of output, to its end, and those of the processor."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start, before = perf_counter(), os.times()
    command = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert command.stdout is not None
    command.stdout.read(1)
    first = perf_counter() - start
    command.stdout.read()
    command.wait()
    end, after = perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"first output": first, "end": end, "processor": used}


def rounds(commands: Mapping[str, list[str]], number: int) -> dict[str, list[Seconds]]:
    """Run all commands in each round; the first round is not counted."""
    results: dict[str, list[Seconds]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        (store := Path(folder) / "mlruns").mkdir()
        MlflowClient(f"sqlite:///{store}/mlflow.db").search_experiments()  # MLflow needs seconds to make a store.
        for counted in (False, *[True] * number):
            for name, arguments in commands.items():
                seconds = run(arguments, Path(folder))
                if counted:
                    results[name].append(seconds)
    return results


def main(argv: Sequence[str]) -> None:
    """Run the rounds, and print the lines and the table."""
    args = make_parser("benchmarks.start", __doc__, 5, "one round of two commands").parse_args(argv)
    commands = {name: COMMANDS[name] for name in QUICK} if args.quick else COMMANDS
    results = rounds(commands, rounds_of(args))
    table = Table("command", "first output, s", "end, s", "processor, s", "end, relative to the peer")
    for name, seconds in results.items():
        for key in ("end", "processor"):
            values, peers = [one[key] for one in seconds], [one[key] for one in results[PEER]]
            print_line(f"{name}: {key}", values, "s", f"{PEER}: {key}" if name != PEER else None, peers)
        middle = [statistics.median(one[key] for one in seconds) for key in ("first output", "end", "processor")]
        relative = [one["end"] / peer["end"] for one, peer in zip(seconds, results[PEER], strict=True)]
        table.add_row(name, *(f"{value:.2f}" for value in middle), spread(relative))
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
