import json

import pytest

from benchmarks.convolution import main


def test_it_measures_each_kernel_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--channels", "4"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert all(set(line) == {"name", "value", "unit", "peer", "ratio"} for line in lines)
    names = [line["name"] for line in lines if line["name"].endswith("cpu")]
    assert names == [f"kernel {kernel}, {size}x{size}, cpu" for kernel in (3, 11, 32) for size in (32, 64)]
    assert all(line["peer"] == "nn.Conv2d" and line["value"] > 0 and line["ratio"] > 0 for line in lines)
