"""Where a run came from: the code's commit and the installed packages."""

import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

_HERE = str(Path(__file__).parent)


def git_state() -> tuple[dict[str, str], str]:
    """Tags `git.commit` and `git.dirty`, and the diff of a dirty tree; both empty outside a repository."""
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return {}, ""
    dirty = bool(_git("status", "--porcelain"))
    return {"git.commit": commit, "git.dirty": str(dirty).lower()}, _git(
        "diff", "--no-ext-diff", "--no-color", "HEAD"
    ) if dirty else ""


@cache
def packages() -> str:
    """Installed packages, one `name==version` a line."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)) + "\n"


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(
            ["git", "-C", _HERE, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:  # no git on this machine
        return ""
    return run.stdout if run.returncode == 0 else ""
