"""The versions of requirements.lock as constraints of uv in pyproject.toml: `uv run` resolves to the tested versions.

python tools/constraints.py    # `make upgrade` runs it after it has written the lock
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PIN = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)
_BLOCK = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def pins(lock: str) -> list[str]:
    """Return the pins of a lock with their markers, without hashes: `numpy==2.4.6 ; python_full_version < '3.12'`."""
    found = [(name, version, marker.strip()) for name, version, marker in _PIN.findall(lock)]
    return [f"{name}=={version}" + (f" ; {marker}" if marker else "") for name, version, marker in found]


def constrained(pyproject: str, constraints: Sequence[str]) -> str:
    """Return the text of pyproject.toml with its constraints replaced by these.

    Raises:
        ValueError: The text has no list of constraints.
    """
    block = "".join(f"    {json.dumps(constraint)},\n" for constraint in constraints)
    text, count = _BLOCK.subn(lambda _: f"constraint-dependencies = [\n{block}]\n", pyproject)
    if count != 1:
        raise ValueError(f"pyproject.toml: got {count} lists constraint-dependencies; there must be one in [tool.uv]")
    return text


if __name__ == "__main__":
    path = ROOT / "pyproject.toml"
    path.write_text(
        constrained(path.read_text("utf-8"), pins((ROOT / "requirements.lock").read_text("utf-8"))), "utf-8"
    )
