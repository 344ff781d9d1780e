"""The benchmark of the start prints what others can read."""

import json

import pytest

from benchmarks.start import main


def test_each_line_names_its_value_and_its_peer(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {frozenset(line) for line in lines} == {frozenset({"name", "value", "unit", "peer", "ratio"})}
    assert {line["name"]: line["ratio"] for line in lines}["fit --help: processor"] < 0.5
