"""The folder of what is derived from data that cannot be written."""

import hashlib
import os
from pathlib import Path


def cache_of_read_only(root: Path) -> Path:
    """Return the folder in `mlruns/cache/` for files derived from those under a read-only folder."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return Path("mlruns/cache") / f"{root.resolve().name}-{place}"
