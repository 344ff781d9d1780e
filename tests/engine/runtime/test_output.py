"""The output of a command: written line by line, in any encoding; a failed write does not end a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from conftest import ROOT, Fit, clean_environment
from tiny import TINY


def printed(program: str, environment: dict[str, str], **streams: int) -> subprocess.Popen[bytes]:
    """Start a process that prints with prepared streams."""
    program = f"from project.engine.runtime.output import prepare_output; prepare_output(); {program}"
    arguments = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(
        [sys.executable, "-c", program], env=clean_environment() | environment, cwd=ROOT, **arguments
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_encoding_lacks_is_replaced(encoding: str) -> None:
    process = printed("print('a é → b')", {"PYTHONIOENCODING": encoding})
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode(encoding) == ("a ? ? b\n" if encoding == "ascii" else "a é ? b\n")


def test_a_line_is_written_when_it_is_complete() -> None:
    process = printed("print('first'); input()", {}, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"  # The process now waits for its input.
    process.communicate(b"\n")


@pytest.mark.parametrize("full", [True, False])
def test_output_that_cannot_be_written_is_dropped_with_one_message(full: bool) -> None:
    if full:
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        read, output = os.pipe()
        os.close(read)
    process = printed(
        "print('a'); print('b'); import project.engine.runtime.output as o; exit(o.lost_output() is None)",
        {},
        stdout=output,
    )
    os.close(output)
    _, errors = process.communicate()
    reason = "No space left on device" if full else "Broken pipe"
    assert process.returncode == 0
    assert errors.decode() == f"standard output cannot be written ({reason}); the rest is dropped\n"


def test_a_fit_whose_output_is_closed_completes(workplace: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = Command("project.fit", *TINY, "--max_epochs=6", folder=workplace, environment=environment)
    lines = []
    while not (lines and lines[-1].startswith("epoch 1 of 6: ")):
        lines.append(command.stdout.readline())
        assert lines[-1], lines
    assert command.poll() is None  # The line arrived during training.
    command.stdout.close()
    assert command.wait(200) == 0
    run = Fit(workplace, 0, "").run
    assert run.info.status == "FINISHED"
    errors = {name: text for name, text in run.data.tags.items() if name.endswith(".error")}
    assert list(errors) == ["output.error"] and errors["output.error"].startswith("Broken pipe")
    assert "test/accuracy" in run.data.metrics


def test_a_machine_without_git_gets_no_lines_about_it(tmp_path: Path) -> None:
    program = "from project.engine.runtime.process import configure_process; configure_process(); import git"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=clean_environment() | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
