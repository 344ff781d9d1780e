"""The record's script in its process, here with a script that only prints what the record's prints."""

from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.record import SCRIPT, Record

_SCRIPT = """
import time

class CifarNet:
    def cuda(self): return self
    def to(self, **options): return self
    def compile(self, mode): assert mode == "max-autotune"

class torch:
    channels_last = None

def main(run, model):
    print(f"|  {run}  |  0  |  0.2000  |  0.3000  |          |  0.4000  |")
    number = 9 if run == "warmup" else run
    print(f"|    eval  |      |          |          |  0.9{number}00  |  2.{number}000  |")
"""


def test_the_script_trains_when_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / SCRIPT).write_text(_SCRIPT)
    with closing(Record(tmp_path, tmp_path, 30)) as record:
        record.wait_until_compiled()
        assert [record.train() for _ in range(2)] == [{"s": 2.0, "accuracy": 0.9}, {"s": 2.1, "accuracy": 0.91}]


@pytest.mark.parametrize(
    ("line", "limit_s", "message"),
    [('raise ValueError("no images")', 30, "exit code 1:\n(.|\n)*no images"), ("time.sleep(60)", 0.5, "exit code -9")],
)
def test_a_script_that_fails_or_takes_too_long_is_an_error(
    line: str, limit_s: float, message: str, tmp_path: Path
) -> None:
    (tmp_path / SCRIPT).write_text(_SCRIPT.replace("def main(run, model):\n", f"def main(run, model):\n    {line}\n"))
    with (
        closing(Record(tmp_path, tmp_path, limit_s)) as record,
        pytest.raises(RuntimeError, match=f"{SCRIPT} ended with {message}"),
    ):
        record.wait_until_compiled()
