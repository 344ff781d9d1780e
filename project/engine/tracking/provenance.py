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
_CODE = (".py", ".yaml", ".yml", ".toml", ".cfg", ".sh", ".md")
_KEYS = (".pem", ".key", ".p12", ".pfx")
_MOST_FILES = 100
_MOST_BYTES_PER_FILE = 200_000
_MOST_BYTES = 1_000_000


def git_state() -> tuple[dict[str, str], str]:
    """Return the tags of the commit, and the diff of a dirty tree; both are empty outside a repository.

    The diff includes submodules, and small text files that git neither tracks nor ignores. Secrets in it are hidden.
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
    """Return the diff that adds the untracked files, code first; its last line counts the files that are left out."""
    top = Path(_git("rev-parse", "--show-toplevel").rstrip("\n"))
    names = _git("-C", str(top), "ls-files", "--others", "--exclude-standard", "-z").split("\0")[:-1]
    names.sort(key=lambda name: (Path(name).suffix not in _CODE, name))
    parts, size = list[str](), 0
    for name in names[:_MOST_FILES]:
        bytes_ = _size_of_text(top / name)
        if bytes_ is not None and size + bytes_ <= _MOST_BYTES:
            size += bytes_
            parts.append(_git("-C", str(top), "diff", "--no-index", "--no-ext-diff", "--no-color", "/dev/null", name))
    if left_out := len(names) - len(parts):
        parts.append(f"# {left_out} untracked files are left out: not text, too large, or named like a secret\n")
    return "".join(parts)


def _size_of_text(path: Path) -> int | None:
    """Return the size of a text file in bytes; None for other files, large files and files that may hold a secret."""
    if path.name.startswith(".") or path.suffix in _KEYS or is_secret_name(path.stem) or path.is_symlink():
        return None
    try:
        if not path.is_file() or (size := path.stat().st_size) > _MOST_BYTES_PER_FILE:
            return None
        return None if b"\0" in path.read_bytes() else size
    except OSError:  # The file was removed, or is not readable.
        return None


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
