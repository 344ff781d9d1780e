"""The folder of files that commands derive from other files, and can derive again."""

import hashlib
import os
from pathlib import Path

CACHE = Path("mlruns/cache")


def cache_of(root: Path) -> Path:
    """Return the folder in `mlruns/cache/` for files derived from those under a folder."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return CACHE / f"{root.resolve().name}-{place}"
