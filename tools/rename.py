"""Rename the package: its folder, and its name in all tracked files.

python tools/rename.py NAME
"""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONLY_THE_PACKAGE = {"Dockerfile", ".dockerignore", "requirements.lock"}
"""Files in which the word always is the package."""


def current_name() -> str:
    """Return the name of the package as pyproject.toml has it."""
    name: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    return name


def git(*arguments: str) -> str:
    """Run git in the repository and return what it prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def check(name: str) -> None:
    """Raise ValueError if the package cannot have this name, or if a change could not be undone by git."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) or iskeyword(name):
        raise ValueError(
            f"got {name!r}; a name has lowercase letters, digits and underscores, such as my_name, and is not a keyword"
        )
    if (ROOT / name).exists() or name in sys.stdlib_module_names or find_spec(name):
        raise ValueError(f"got {name!r}, which is the name of another module or of a file here; choose another one")
    if changed := git("status", "--porcelain", "--untracked-files=no"):
        raise ValueError(f"{changed.splitlines()[0][3:]} has changes; commit or stash them first")


def pattern(name: str) -> re.Pattern[str]:
    """Return a pattern that matches the name of the package, but not the same word in a sentence."""
    return re.compile(
        rf"""
        (?<![\w.-]) (?<!^\[) {name} (?= \.[\w{{*] | \\\. | / | \|\w )  # module paths, also in regular expressions
        | (?<=["'`]) (?<![\w)\]]\[["']) {name} (?= \.?["'`] )          # the name alone, but not a key of TOML
        | (?<=import[ ]) {name} \b
        | (?<=from[ ]) {name} (?=[ ]import)
        | (?<=:::) {name} \b                                           # the module of a warning
        | (?<=^\#[ ]) {name} $                                         # the title of README.md
        | (?<=[ ]-t[ ]) {name} \b | (?<=mlruns[ ]) {name} \b           # the image of docker
        """,
        re.VERBOSE | re.MULTILINE,
    )


def rename(old: str, new: str) -> int:
    """Rename the package and return the number of files with its name."""
    paths = [ROOT / path for path in git("ls-files", "-z").split("\0") if path]
    changed = 0
    for path in paths:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:  # For example an image.
            continue
        words = re.compile(rf"\b{old}\b") if path.name in ONLY_THE_PACKAGE else pattern(old)
        if (renamed := words.sub(new, text)) != text:
            path.write_bytes(renamed.encode())
            changed += 1
    git("mv", old, new)
    if find_spec("ruff"):
        lint()
    return changed


def lint() -> None:
    """Sort imports and wrap lines, which depend on the name, and allow the lines that cannot be wrapped."""
    for arguments in (["check", "--select=I", "--fix"], ["format"], ["check", "--select=E501", "--add-noqa"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, "--quiet"], cwd=ROOT, check=True)


def main() -> None:
    """Rename the package, or exit with 2 if it cannot have this name."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python tools/rename.py NAME", file=sys.stderr)
        sys.exit(2)
    old, new = current_name(), sys.argv[1]
    try:
        check(new)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    changed = rename(old, new)
    print(f"{old} is now {new}, in {changed} files; run `make check test`, then commit")


if __name__ == "__main__":
    main()
