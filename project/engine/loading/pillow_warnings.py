"""The warnings of Pillow while files are checked: counted, in place of a warning for each file."""

import threading
import warnings
from pathlib import Path
from typing import Any, Self

# Transparency is dropped anyway.
_OF_NO_USE = "Palette images with Transparency"


class PillowWarnings:
    """The files about which Pillow warns in a block of code, such as those with damaged metadata, in any thread.

    Attributes:
        found: First warning about each file.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._current = threading.local()
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._caught.__enter__()
        warnings.filterwarnings("always", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", _OF_NO_USE, UserWarning)
        self._show = warnings.showwarning
        warnings.showwarning = self._note  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._caught.__exit__(None, None, None)

    def are_about(self, name: str) -> None:
        """Attribute later warnings of this thread to a file."""
        self._current.name = name

    def _note(self, message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        name = getattr(self._current, "name", None)
        if name is not None and Path(filename).parent.name == "PIL":
            self.found.setdefault(name, " ".join(str(message).split()))
        else:
            self._show(message, category, filename, *rest)
