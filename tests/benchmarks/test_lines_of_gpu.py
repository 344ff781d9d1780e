"""All parts of `make gpu` are run, whatever happens to one of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import Outcome, Part, absent_of, main, make_groups, report, run_all, write
from benchmarks.lines import FIELDS

PRINTS = "import benchmarks.lines as lines; print(); lines.print_line('speed', [2], 'm/s', 'peer', [4])"
SLEEPS = "import subprocess; print('started', flush=True); subprocess.run(['sleep', '4242.42'])"
ABSENT = "print('overlap: not measured, because it needs a GPU')"


def python(name: str, code: str, limit_s: float = 60) -> Part:
    return Part(name, ["timeit", "-n1", "-r1", code], limit_s)


def test_a_part_that_fails_or_exceeds_its_limit_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [python("broken", "1 / 0"), python("endless", SLEEPS, 3), python("absent", ABSENT), python("fast", PRINTS)]
    outcomes = list(run_all([[part] for part in parts], 60))
    results = {outcome.part.name: outcome.result for outcome in outcomes}
    assert results == {
        "broken": "failed: exit code 1", "endless": "timed out after 3 s", "absent": "passed", "fast": "passed",
    }  # fmt: skip
    assert not [one for one in psutil.process_iter(["cmdline"]) if "4242.42" in (one.info["cmdline"] or ())]

    write(outcomes, tmp_path / "out" / "gpu.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "gpu.jsonl").read_text().splitlines()]
    assert all(set(FIELDS) <= set(line) for line in lines)
    assert [line["name"] for line in lines] == ["broken", "endless", "absent", "fast", "speed"]
    assert (lines[-1]["value"], lines[-1]["ratio"], lines[-1]["part"]) == (2, 2, "fast")
    assert "ZeroDivisionError" in (tmp_path / "out" / "gpu.log").read_text()

    assert outcomes[2].absent == ["overlap"]
    assert absent_of("gpu/test_gpu.py::test_copy[cpu-1] SKIPPED (needs a GPU)   [ 9%]") == ["test_copy[cpu-1]"]
    report(outcomes)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("ZeroDivisionError", "started", "speed", "overlap"))


def test_parts_without_time_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    results = [outcome.result for outcome in run_all([[python("endless", SLEEPS)], [python("fast", PRINTS)]], 3)]
    assert results == ["timed out after 3 s", "no time left"]


def test_what_is_measured_is_written_before_the_next_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Iterator[Outcome]:
        yield from run_all([[python("fast", PRINTS)]], 60)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.gpu.run_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["--output", str(tmp_path / "gpu.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["fast", "speed"]


def test_only_all_parts_on_a_gpu_replace_the_stored_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outcome,) = run_all([[python("fast", PRINTS)]], 60)
    monkeypatch.setattr("benchmarks.gpu.run_all", lambda *_: iter([outcome]))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("benchmarks.gpu.hardware", lambda: "a GPU")
    monkeypatch.chdir(tmp_path)
    for options, is_written in ((["--quick"], False), (["--only", "step"], False), ([], True)):
        with pytest.raises(SystemExit, match="0"):
            main(options)
        assert Path("benchmarks/results/gpu.jsonl").exists() == is_written


def test_the_usual_parts_fit_into_eight_minutes_and_bad_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    groups = make_groups(gpu=True, images=Path("images"), clone=Path("clone"))
    assert [part.name for group in groups[:2] for part in group] == ["tests", "record", "step"]
    assert sum(max(part.limit_s for part in group) for group in groups[:2]) < 8 * 60
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "stepp"])
    assert "got stepp; the parts are tests, record, step" in capsys.readouterr().err


def test_parts_of_a_group_start_together_and_measure_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = (tmp_path / name for name in ("began", "ended"))
    (tmp_path / "waiter.py").write_text(
        "import sys, pathlib; from benchmarks.lines import wait_for_end\n"
        f"pathlib.Path({str(began)!r}).touch(); wait_for_end(int(sys.argv[2]))\n"
        f"print('measures', pathlib.Path({str(ended)!r}).exists())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lasts = f"import time, pathlib\nwhile not pathlib.Path({str(began)!r}).exists(): time.sleep(0.01)"
    first = python("first", f"{lasts}\ntime.sleep(0.5); pathlib.Path({str(ended)!r}).touch()")
    outcomes = list(run_all([[first, Part("second", ["waiter"], 60)]], 60))
    assert [outcome.result for outcome in outcomes] == ["passed", "passed"]
    assert outcomes[1].output == "measures True\n"


@pytest.mark.faults
def test_a_part_runs_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gpu.jsonl"
    with pytest.raises(SystemExit, match="0"):
        main(["--only", "convolution", "--quick", "--output", str(output)])
    names = [json.loads(line)["name"] for line in output.read_text().splitlines()]
    assert names[0] == "convolution" and "kernel 3, 32x32, cpu" in names
