"""The errors of argparse, in one line."""

import os
import tempfile
from pathlib import Path

import pytest
from conftest import as_nobody

from project.engine.cli.command_parser import CommandParser, unwritable


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ("RUN --fromat=onnx", "unknown option --fromat; did you mean --format?"),
        ("RUN --nonsense x", "unknown option --nonsense; options are --help, --format, --top_k"),
        ("RUN --al", "unknown option --al; options are --help, --format, --top_k"),
        ("RUN another", "unrecognized arguments: another; usage: "),
        ("RUN --format=tflite", "--format: invalid choice: 'tflite' (choose from "),
        ("RUN --top_k=many", "--top_k: invalid int value: 'many'"),
        ("RUN --top_k", "--top_k: expected one argument"),
        ("", "the following arguments are required: RUN; usage: export RUN [--format F]"),
    ],
)
def test_an_error_is_one_line(argv: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="export", usage="%(prog)s RUN [--format F]", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--format", choices=["onnx", "pt2"], help="not --formats")
    parser.add_argument("--top_k", type=int)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(argv.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")


def test_an_output_that_cannot_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:  # Other users cannot enter pytest's folders.
        place = Path(name)
        place.chmod(0o755)
        (old := place / "old.csv").touch()
        assert unwritable(place / "new.csv") is None
        assert unwritable(place / "none/new.csv") == (
            f"got {place}/none/new.csv, but the folder {place}/none does not exist; create it"
        )
        end = "; change its permissions, or name another one"
        assert unwritable(place) == f"cannot write {place} (Is a directory){end}"
        assert str(unwritable(Path("/proc/new.csv"))).startswith("cannot write /proc/new.csv (")
        if os.geteuid() == 0:  # Only root can become another user.
            with as_nobody():
                for path in (old, place / "new.csv"):
                    assert unwritable(path) == f"cannot write {path} (Permission denied){end}"
