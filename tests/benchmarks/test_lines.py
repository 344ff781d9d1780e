"""All benchmarks print the same kind of line."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, clean_environment

from benchmarks.lines import FIELDS, print_line, report

QUICK = {
    "checkpoints": (),
    "cifar10": ("--minutes=0.1",),
    "concurrency": ("--only", "asynchronous loading"),
    "convolution": ("--channels=4",),
    "jpeg_on_gpu": (),
    "loading": (),
    "predictions": (),
    "record": (),
    "reliability": (),
    "start": (),
    "step --parts": (),
    "step --processes=2": (),
    "sweep": (),
    "tracking": (),
}
WITHOUT_PEER = ("sweep", *(() if torch.cuda.is_available() else ("jpeg_on_gpu", "record")))
ROUNDS = [{"ours": 2.0, "peer": 3.0}, {"ours": 2.0, "peer": 5.0}, {"ours": 4.0, "peer": 8.0}]


def lines_of(output: str) -> list[dict[str, object]]:
    """Return the lines of a benchmark's output, which are JSON objects."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(("more_is_better", "ratio"), [(False, 2.0), (True, 0.5)])
def test_a_ratio_of_more_than_1_is_better_and_is_the_median_of_the_rounds(
    more_is_better: bool, ratio: float, capsys: pytest.CaptureFixture[str]
) -> None:
    report("step", ROUNDS, "ms", "peer", more_is_better=more_is_better)
    ours, peer = lines_of(capsys.readouterr().out)
    assert ours == {"name": "step: ours", "value": 2.0, "unit": "ms", "peer": "step: peer", "ratio": ratio}
    assert peer == {"name": "step: peer", "value": 5.0, "unit": "ms", "peer": None, "ratio": None}


def test_what_was_not_reached_has_no_value_and_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("never", [math.nan, math.nan], "s", "peer", [1, 2])
    print_line("once", [math.nan, 2], "s", "peer", [1, math.nan])
    (once,) = lines_of(capsys.readouterr().out)
    assert once == {"name": "once", "value": 2.0, "unit": "s", "peer": None, "ratio": None}


@pytest.mark.faults
@pytest.mark.parametrize("benchmark", QUICK)
def test_each_benchmark_prints_lines_with_numbers(benchmark: str, tmp_path: Path) -> None:
    module, *options = benchmark.split()
    done = subprocess.run(  # a new process, because some benchmarks spawn processes of their own
        [sys.executable, "-m", f"benchmarks.{module}", "--quick", *options, *QUICK[benchmark]], cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    output = done.stdout
    lines = lines_of(output)
    assert done.returncode == 0 and lines, output
    for line in lines:
        assert tuple(line) == FIELDS
        name, value, unit, peer, ratio = line.values()
        assert name and unit and isinstance(name, str) and isinstance(unit, str)
        assert isinstance(value, float) and math.isfinite(value) and (value > 0 or unit == "%"), line
        assert (peer is None) == (ratio is None) and isinstance(peer, str | None)
        assert ratio is None or (isinstance(ratio, float) and math.isfinite(ratio) and ratio > 0), line
    assert len({line["name"] for line in lines}) == len(lines)
    assert any(line["ratio"] for line in lines) or module in WITHOUT_PEER, output
