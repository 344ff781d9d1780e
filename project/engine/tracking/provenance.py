"""The provenance of a run: the git commit and the installed packages."""

import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from project.engine.tracking.secrets import is_secret_name, redact_code
from project.engine.tracking.tags import COMMIT, DIRTY

PACKAGES, DIFF = "requirements.txt", "git.diff"
"""Artifacts of a run: the installed packages, and the changes that were not committed."""

_HERE = str(Path(__file__).parent)
_CODE = ("*.py", "*.yaml", "*.yml", "*.toml", "*.json", "*.cfg", "*.sh")
_MOST_FILES = 100
_MOST_BYTES = 200_000


def git_state() -> tuple[dict[str, str], str]:
    """Return the tags of the commit, and the diff of a dirty tree; both are empty outside a repository.

    The diff includes submodules, and small files of code that git neither tracks nor ignores. Secrets in it are hidden.
    """
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return {}, ""
    dirty = bool(_git("status", "--porcelain"))
    if not dirty:
        return {COMMIT: commit, DIRTY: "false"}, ""
    diff = _git("diff", "--no-ext-diff", "--no-color", "--submodule=diff", "HEAD")
    return {COMMIT: commit, DIRTY: "true"}, redact_code(diff + _untracked())


def _untracked() -> str:
    """Return the diff that adds the untracked files of code, except those that are large or named like a secret."""
    top = _git("rev-parse", "--show-toplevel").rstrip("\n")
    names = _git("-C", top, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE).split("\0")[:-1]
    # Hidden files and files that are named like a secret may contain one.
    shown = [name for name in names if not (Path(name).name.startswith(".") or is_secret_name(Path(name).stem))]
    # git does not read a larger file, and shows it as a binary one, which `git apply` refuses.
    command = ("-C", top, "-c", f"core.bigFileThreshold={_MOST_BYTES}", "diff", "--no-index", "--no-ext-diff")
    diffs = (_git(*command, "--no-color", "/dev/null", name) for name in shown[:_MOST_FILES])
    return "".join(diff for diff in diffs if "\nBinary files " not in diff)


@cache
def packages() -> str:
    """Return the installed packages, one `name==version` per line."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)) + "\n"


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(
            ["git", "-C", _HERE, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:  # no git on this machine
        return ""
    return run.stdout if run.returncode in (0, 1) else ""  # 1 means that the files of `diff --no-index` differ.
