"""The last lines of a command that failed: the frames of the user's code, the run, and the error in one line."""

import re
import sys
import sysconfig
from pathlib import Path
from textwrap import shorten
from traceback import FrameSummary, extract_tb

_LONGEST = 400
_MOST_FRAMES = 3
_PACKAGE = Path(__file__).parents[2]
_ENGINE = __name__.partition(".runtime")[0]
_NOT_OF_THE_USER = tuple(
    f"{folder}/"
    for folder in (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), _PACKAGE / "engine")
)
# torch puts the traceback of a loading process into the message.
_FRAME_IN_MESSAGE = re.compile(r'^ *File "(.+)", line (\d+), in (\S+)$', re.MULTILINE)


def shortened(text: str) -> str:
    """Return a text on one line that is short enough for a terminal."""
    return shorten(text, _LONGEST, placeholder=" …")


class RunNote(str):
    """Lines about the run of an error: its id, its whole traceback, and how to resume it.

    It is a note of the exception, which callers in the same process also receive.
    """

    __slots__ = ()


def failure(error: BaseException) -> str:
    """Return lines about an error: the last frames of the user's code, the notes about its run, and the error."""
    frames = _user_frames(error)
    shown = [
        line
        for frame in frames[-_MOST_FRAMES:]
        for line in (
            f'  File "{_short(frame.filename)}", line {frame.lineno}, in {frame.name}',
            f"    {frame.line or ''}",
        )
        if line.strip()
    ]
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, RunNote)]
    return "\n".join([*(["your code in this error:", *shown] if shown else []), *notes, _sentence(error, frames)])


def place(error: BaseException) -> str:
    """Return ` (FILE, line N)` of the last frame of the user's code, or an empty text."""
    frames = _user_frames(error)
    return f" ({_short(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def needs_traceback(error: BaseException) -> bool:
    """Return whether a traceback explains the error.

    It does not for errors of the engine or of Lightning's settings, and is not needed if a run has recorded it.
    """
    is_explained = _is_ours(error) or type(error).__name__ == "MisconfigurationException"
    return not (is_explained or any(isinstance(note, RunNote) for note in getattr(error, "__notes__", ())))


def _sentence(error: BaseException, frames: list[FrameSummary]) -> str:
    where = f"{_short(frames[-1].filename)}:{frames[-1].lineno}, {frames[-1].name}: " if frames else ""
    message, kind = str(error).strip(), type(error).__name__
    if _FRAME_IN_MESSAGE.search(message):  # its last line is the error
        message = message.splitlines()[-1].removeprefix(f"{kind}: ")
    named = f"{kind}: {message}" if frames or not _is_ours(error) else message
    return f"error: {where}{shortened(named)}"


def _user_frames(error: BaseException) -> list[FrameSummary]:
    """Return the frames of the error, or of its cause, that are neither in a library nor in the engine."""
    found = [frame for frame in extract_tb(error.__traceback__) if _is_of_the_user(frame.filename)]
    in_message = [
        FrameSummary(name, int(line), function)
        for name, line, function in _FRAME_IN_MESSAGE.findall(str(error))
        if _is_of_the_user(name)
    ]
    found += in_message
    if not found and error.__cause__ is not None:
        return _user_frames(error.__cause__)
    return found


def _is_of_the_user(filename: str) -> bool:
    path = Path(filename)
    is_command = path.parent == _PACKAGE  # project/fit.py and the others
    is_library = filename.startswith(_NOT_OF_THE_USER) or "site-packages" in path.parts
    return path.suffix == ".py" and not (is_library or is_command)  # Libraries in Cython have other suffixes.


def _is_ours(error: BaseException) -> bool:
    """Return whether the engine raised the error on purpose, with a message that needs no type."""
    frames = extract_tb(error.__traceback__)
    meant = isinstance(error, ValueError | OSError | FloatingPointError) or type(error).__module__.startswith(_ENGINE)
    return meant and bool(frames) and frames[-1].filename.startswith(f"{_PACKAGE}/engine/")


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def print_failure(error: BaseException) -> None:
    """Print the lines about an error to standard error."""
    print(failure(error), file=sys.stderr, flush=True)
