"""The captures in docs/terminal, which tools/terminals.py makes: they are current, and free of noise."""

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_store

sys.path.insert(0, str(ROOT / "tools"))
from terminals import CAPTURES, FAILING_TASK, FOLDER, Screen, shown

NOISE = re.compile("Traceback|Warning|warning:|site-packages|\x1b|[\r\b]")


def saved(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def without_numbers(text: str) -> str:
    """Replace numbers, and the spaces that align them: another processor rounds differently."""
    return re.sub(r"[ ─━┳╇┻┴┬]+", " ", re.sub(r"\d[\d.,e-]*", "0", text))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["mistyped", "fit_80", "fit_dumb", "failing"])
def test_a_capture_is_what_its_command_shows(name: str, tmp_path: Path) -> None:
    copy_store(tmp_path)
    (tmp_path / "my_task.py").write_text(FAILING_TASK, encoding="utf-8")
    _, text = shown(CAPTURES[name], tmp_path)
    assert without_numbers(text) == without_numbers(saved(name)), f"run: python tools/terminals.py {name}"


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_has_no_noise_and_nothing_twice(name: str) -> None:
    lines = saved(name).splitlines()
    assert not [line for line in lines if NOISE.search(line)]
    assert max(map(len, lines[1:])) <= (CAPTURES[name].columns or 400)
    sentences = [line for line in lines if len(line) > 20]
    assert len(sentences) == len(set(sentences))


def test_captures_have_no_other_files() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(CAPTURES)


def test_the_last_line_of_a_failure_is_its_error() -> None:
    for name in ("failing", "mistyped"):
        before, _, last = saved(name).rpartition("\nerror: ")
        assert before
        assert len(last) < 2 * 80


def test_a_screen_shows_what_a_terminal_shows() -> None:
    screen = Screen(10)
    screen.write(
        "activity\r\x1b[Kdone\r\nbar 1\r\nbar 2\x1b[1A\r\x1b[2Kfirst\r\n\x1b[2K\x1b[32mlonger than ten\x1b[0m\r\n"
    )
    assert screen.text() == "done\nfirst\nlonger tha\nn ten\n"
