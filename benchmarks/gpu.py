"""Everything that needs a GPU: its tests and its benchmarks, one part after the other, in at most eight minutes.

make gpu                                  # python -m benchmarks.gpu
make gpu PYTHON=python3                   # without uv
make gpu GPU="--images DIR --record CLONE" # with CIFAR-10 and the record's script; see benchmarks/record.py
make gpu GPU="--only step record --output FILE.jsonl"

Each part is a command in its own processes, in an empty folder, and is killed after its time limit. The record's script
compiles its net for minutes, while the tests run; all other parts run alone. With --record, there is no time for the
benchmark of concurrency. A part that fails does not stop the others; the exit code is then 1. Without a GPU, each part
does what it can on the CPU, and names what it leaves out. Writes the lines of benchmarks/lines.py as JSON lines, each
with its `part`, and the output of all parts in files in the same folder; prints a table. Without --output, the files
are written only if all parts run on a GPU.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.concurrency.report import hardware
from benchmarks.lines import LINE_WIDTH, make_parser

ROOT = Path(__file__).parent.parent
LIMIT_S = 470.0
RESULTS = Path("benchmarks/results/gpu.jsonl")
GPU_TESTS = ("tests/gpu", "tests/engine/loading/test_device.py")
_NO_TIME = "no time left"


@dataclass(frozen=True)
class Part:
    """A command of Python, and the seconds that it may take.

    Attributes:
        name: Name in the table.
        options: The module and its options.
        limit_s: Time limit in seconds.
    """

    name: str
    options: Sequence[str]
    limit_s: float


Group = Sequence[Part]
"""Parts that start at the same time; each gets `--after` with the process of the one before, and measures then."""


@dataclass
class Outcome:
    """What a part did.

    Attributes:
        part: The part.
        result: `passed`, `failed: exit code N`, `timed out after N s`, or `no time left`.
        seconds: Its duration.
        output: What it printed.
        lines: The lines of its measurements.
        absent: Names of tests and measurements that were left out, mostly because they need a GPU.
    """

    part: Part
    result: str
    seconds: float = 0.0
    output: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether it ended without an error and in time."""
        return self.result == "passed"


def make_groups(*, gpu: bool, images: Path | None, clone: Path | None) -> list[Group]:
    """Return all parts, the most important first; without a GPU, in a form that takes seconds."""
    quick = [] if gpu else ["--quick"]
    accelerator, device = ("gpu", "cuda") if gpu else ("cpu", "cpu")
    given = [*(["--images", str(images)] if images else ["--quick"]), *(["--record", str(clone)] if clone else [])]
    tests = [str(ROOT / path) for path in GPU_TESTS]
    concurrency = Part(
        "concurrency",
        ["benchmarks.concurrency", "--quick", "--only", "all asynchronous", "bf16-mixed", "compiled"], 100,
    )  # fmt: skip
    return [
        [
            Part("tests", ["pytest", "-m", "gpu or not faults", "-v", "-p", "no:cacheprovider", *tests], 180),
            Part("record", ["benchmarks.record", "--rounds", "2", "--compile_s", "230", *given], 330),
        ],
        [Part(
            "step",
            ["benchmarks.step", "--accelerator", accelerator, "--net", "small", "resnet18", "--rounds", "1",
             "--slices", "5", *quick], 100,
        )],
        [Part("jpeg", ["benchmarks.jpeg_on_gpu", "--rounds", "2", "--count", "256", *quick], 60)],
        [Part("convolution", ["benchmarks.convolution", "--rounds", "3", "--devices", device, *quick], 40)],
        [Part("loading", ["benchmarks.loading", "--quick", "--rounds", "3", "--only", "overlap"], 60)],
        *([] if clone else [[concurrency]]),
    ]  # fmt: skip


@dataclass
class Running:
    """A part whose process has started, in an empty folder.

    Args:
        part: The part.
        limit_s: Seconds after which it is killed.
        after: Id of a process; the part measures after its end.
    """

    part: Part
    limit_s: float
    after: int | None = None

    def __post_init__(self) -> None:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": str(LINE_WIDTH)}
        options = [*self.part.options, *(["--after", str(self.after)] if self.after else [])]
        self.start, self.folder = monotonic(), TemporaryDirectory()
        self.output = Path(self.folder.name, "output.txt")
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *options], cwd=self.folder.name, env=environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def finish(self) -> Outcome:
        """Wait for its end, or for its time limit."""
        try:
            code = self.process.wait(max(0, self.start + self.limit_s - monotonic()))
            result = "passed" if code == 0 else f"failed: exit code {code}"
        except subprocess.TimeoutExpired:
            result = f"timed out after {self.limit_s:.0f} s"
        seconds = monotonic() - self.start
        kill(self.process)
        text = self.output.read_text(errors="replace")
        return Outcome(self.part, result, seconds, text, list(lines_of(text)), absent_of(text))

    def close(self) -> None:
        """Kill its processes, and delete its folder."""
        kill(self.process)
        self.folder.cleanup()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that may have ended, its children, and its process group."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines_of(output: str) -> Iterator[dict[str, Any]]:
    """Yield the measurements in an output."""
    for line in output.splitlines():
        if line.startswith('{"name"'):
            with suppress(json.JSONDecodeError):  # The part was killed while it printed.
                yield json.loads(line)


def absent_of(output: str) -> list[str]:
    """Return what an output names as left out without a GPU: skipped tests, and measurements."""
    found = re.findall(r"^.*::(\S+) SKIPPED\b|^(.*): not measured, because", output, re.MULTILINE)
    return [test or measurement for test, measurement in found]


def report(outcomes: Sequence[Outcome]) -> None:
    """Print the table, and the end of the output of each part that did not pass."""
    console = Console(width=LINE_WIDTH, highlight=False)
    for outcome in outcomes:
        if not outcome.passed:
            console.print(f"--- {outcome.part.name}, the end of its output", markup=False)
            console.print("\n".join(outcome.output.splitlines()[-15:]), markup=False)
    table = Table("part", "result", "figure", "unit", "times as good", title=hardware())
    for outcome in outcomes:
        table.add_row(outcome.part.name, outcome.result, f"{outcome.seconds:.0f}", "s of its processes", "")
        for line in outcome.lines:
            table.add_row("", line["name"], f"{line['value']:g}", line["unit"], line["ratio"] and f"{line['ratio']:g}")
        for name in outcome.absent:
            table.add_row("", name, "absent", "", "")
    console.print(table)


def write(outcomes: Sequence[Outcome], output: Path) -> None:
    """Write the lines, and the output of each part into a file beside them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for outcome in outcomes:
        about = {
            "name": outcome.part.name,
            "value": round(outcome.seconds, 1),
            "unit": "s",
            "peer": None,
            "ratio": None,
        }
        lines.append(about | {"part": outcome.part.name, "result": outcome.result, "hardware": hardware()})
        lines += [line | {"part": outcome.part.name} for line in outcome.lines]
    output.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    texts = (f"==== {one.part.name}: {one.result}\n{one.output}\n" for one in outcomes)
    output.with_suffix(".log").write_text("".join(texts))


def main(argv: Sequence[str]) -> None:
    """Run the parts; exit with 1 if one of them does not pass."""
    parser = make_parser("benchmarks.gpu", __doc__, None, "as without a GPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts")
    parser.add_argument("--images", type=lambda path: Path(path).resolve(), metavar="DIR", help="CIFAR-10 as JPEGs")
    parser.add_argument("--record", type=lambda path: Path(path).resolve(), metavar="CLONE", help="the record's script")
    parser.add_argument("--limit_s", type=float, default=LIMIT_S, help=f"time limit of all parts ({LIMIT_S:.0f})")
    parser.add_argument(
        "--output", type=Path, help="for the lines (benchmarks/results/gpu.jsonl, if all parts run on a GPU)"
    )
    args = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available() and not args.quick
    output = args.output or (RESULTS if on_gpu and not args.only else None)
    groups = make_groups(gpu=on_gpu, images=args.images, clone=args.record)
    names = [part.name for group in groups for part in group]
    if unknown := sorted(set(args.only or ()) - set(names)):
        parser.error(f"--only: got {unknown[0]}; the parts are {', '.join(names)}")
    chosen = [[part for part in group if part.name in (args.only or names)] for group in groups]
    outcomes: list[Outcome] = []
    for outcome in run_all(chosen, args.limit_s):
        outcomes.append(outcome)
        if output:
            write(outcomes, output)  # after each part, in case the machine is taken away
    report(outcomes)
    sys.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


def run_all(groups: Sequence[Group], limit_s: float) -> Iterator[Outcome]:
    """Run groups one after the other, in `limit_s` seconds together; report on stderr how each part has ended."""
    end = monotonic() + limit_s
    for group in groups:
        left_s = end - monotonic()
        for outcome in run(group, left_s) if left_s > 1 else [Outcome(part, _NO_TIME) for part in group]:
            print(f"{outcome.part.name}: {outcome.result}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
            yield outcome


def run(group: Group, limit_s: float) -> Iterator[Outcome]:
    """Start the parts of a group at the same time, and yield how each has ended."""
    with ExitStack() as stack:
        running: list[Running] = []
        for part in group:
            after = running[-1].process.pid if running else None
            running.append(stack.enter_context(closing(Running(part, min(part.limit_s, limit_s), after))))
        for one in running:
            yield one.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
