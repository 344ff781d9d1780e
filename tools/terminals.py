"""Capture what commands show in a terminal, in docs/terminal/NAME.txt, so that a review shows its changes.

python tools/terminals.py
python tools/terminals.py fit_80 mistyped

Parts that differ between two runs of the same command, such as ids, times and speeds, are replaced.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "terminal"
ROWS = 40
RUN_ID = r"\b[0-9a-f]{32}\b"
ANY_RUN_ID = "0123456789abcdef" * 2

FAILING_TASK = '''"""A task with a mistake."""

from project.tasks import ImageClassifier


class MyTask(ImageClassifier):
    def training_step(self, batch, batch_idx):
        if self.global_step == 30:
            batch["image"]
        return super().training_step(batch, batch_idx)
'''


@dataclass(frozen=True)
class Capture:
    """A command, and the terminal that shows it.

    Attributes:
        options: The command after `python -m`; RUN_ID is the run of the capture `fit_80`.
        columns: Width of the terminal; None is a pipe.
        term: The variable TERM.
        environment: More variables.
    """

    options: str
    columns: int | None = 80
    term: str = "xterm-256color"
    environment: Mapping[str, str] = field(default_factory=dict)


SMALL = "--model.net.widths [8,8,16,16]"
FIT = f"project.fit --max_epochs 2 {SMALL}"
CAPTURES = {
    "fit_80": Capture(FIT),
    "fit_120": Capture(FIT, 120),
    "fit_piped": Capture(FIT, None),
    "fit_dumb": Capture(FIT, term="dumb"),
    "ddp": Capture(f"project.fit --strategy ddp --devices 2 --max_epochs 2 {SMALL}"),
    "resume": Capture("project.fit --resume RUN_ID --max_epochs 3"),
    "sweep": Capture(f"project.sweep --search optimizer --n_trials 2 --max_epochs 1 {SMALL}"),
    "failing": Capture(f"project.fit --model.class_path my_task.MyTask --max_epochs 3 {SMALL}"),
    "mistyped": Capture("project.fit --max_epoch 3"),
}


class Screen:
    """The lines that a terminal has shown, also those that have scrolled off.

    Args:
        columns: Width; longer lines continue in the next row.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    def write(self, text: str) -> None:
        """Show text with control codes."""
        for code, final, character in re.findall(r"\x1b\[([\d;?]*)([A-Za-z])|([^\x1b]|\x1b(?!\[))", text, re.DOTALL):
            if final:
                self._control(final, int(code) if code.isdigit() else 0)
            else:
                self._put(character)

    def text(self) -> str:
        """Return the lines, without the spaces at their ends."""
        return "\n".join("".join(row).rstrip() for row in self._rows).rstrip() + "\n"

    def _control(self, final: str, number: int) -> None:
        row = self._rows[self._row]
        if final == "A":
            self._row = max(0, self._row - max(1, number))
        elif final == "K" and number == 2:
            row.clear()
        elif final == "K":
            del row[self._column :]
        elif final not in "mhl":  # colours and the cursor's visibility
            raise ValueError(f"got the control code {number}{final}; add it to {type(self).__name__}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_row()
        else:
            if self._column == self._columns:
                self._column = 0
                self._next_row()
            row = self._rows[self._row]
            row += " " * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1

    def _next_row(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])


def shown(capture: Capture, folder: Path, run_id: str = "") -> tuple[str, str]:
    """Run a command in a folder; return its run, and what its terminal shows, without what differs between runs."""
    options = capture.options.replace("RUN_ID", run_id).split()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTEST_", "COLUMNS", "LINES"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "TERM": capture.term, "PYTHONIOENCODING": "utf-8"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", **capture.environment}
    output = run([sys.executable, "-m", *options], capture.columns, folder, environment)
    run_ids = re.findall(RUN_ID, output)
    output = re.sub(RUN_ID, ANY_RUN_ID, output)  # before a line is broken in one
    if capture.columns is not None:
        screen = Screen(capture.columns)
        screen.write(output)
        output = screen.text()
    return run_ids[0] if run_ids else "", f"$ python -m {capture.options}\n{without_changes(output, folder)}"


def run(command: Sequence[str], columns: int | None, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command in a terminal of `columns`, or with a pipe; return its output."""
    if columns is None:
        return subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", check=False,
        ).stdout  # fmt: skip
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, columns))
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        data = b""
        while part := _read(ours):
            data += part
        process.wait()
    os.close(ours)
    return data.decode("utf-8", "replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux raises EIO when the last process has closed the terminal.
        return b""


def without_changes(output: str, folder: Path) -> str:
    """Replace what differs between two runs of the same command; numbers keep their width."""
    text = output.replace(f"{folder}{os.sep}", "").replace(str(folder), ".")
    for pattern, replacement in (
        (r"(?m)^(waited for data|delivering to MLflow|delivered to MLflow).*\n", ""),
        (r"(?<=(with|. on) )\d+(?= (CPU )?cores)", "N"),
        (r"(per second +|/s )[\d,.]*\d", r"\g<1>0"),
        (r"(time )[\d.]+ s\b", r"\g<1>0 s"),
        (r"(?m)^(duration +).*", r"\g<1>0 s"),
        (r"[\d,.]*\d(?= +[\d.]+ s\b)", lambda found: "0".rjust(len(found[0]))),  # the column before the time
        (r"\b\d+(\.\d+)? s\b", lambda found: "0 s".rjust(len(found[0]))),
    ):
        text = re.sub(pattern, replacement, text)
    return text


def main(names: Sequence[str]) -> None:
    """Write the captures with these names, or all."""
    if unknown := set(names) - set(CAPTURES):
        sys.exit(f"error: got {', '.join(sorted(unknown))}; the captures are {', '.join(CAPTURES)}")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, run_id = Path(name).resolve(), ""
        (folder / "my_task.py").write_text(FAILING_TASK, encoding="utf-8")
        for name, capture in CAPTURES.items():
            if names and name not in names and not (name == "fit_80" and "resume" in names):
                continue
            made, text = shown(capture, folder, run_id)
            run_id = run_id or made
            (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
            print(f"{(FOLDER / name).relative_to(ROOT)}.txt", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
