"""Restarted processes (`torchrun --max-restarts`, a sweep), which continue the run of their predecessors."""

import logging
import os

from project.engine.runtime.launcher import TORCHRUN, attempt
from project.engine.tracking import experiments, store
from project.engine.tracking.owner import PREFIX, owner_tags

_log = logging.getLogger(__name__)

TAG = f"{PREFIX}torchrun"
RESTART_OF = "PROJECT_RESTART_OF"
RUN_ID_VARIABLE = "PROJECT_RUN_ID"


def launch_tag() -> dict[str, str]:
    """Return a tag that all attempts of one `torchrun` share; empty if torchrun did not start this process."""
    name = os.environ.get(TORCHRUN)
    if name is None:
        return {}
    if name == "none" and os.environ["GROUP_WORLD_SIZE"] != "1":
        return {}  # Each node has its own launcher, and the environment does not show that they belong together.
    if name == "none":  # Without --rdzv-id, the launcher identifies the run: it outlives its attempts.
        name = ":".join(owner_tags(os.getppid()).values())
    return {TAG: name}


def run_before_restart() -> str | None:
    """Return the MLflow run of the previous attempt; None on the first attempt, or if the previous one had no run.

    A sweep names it in the environment; torchrun counts attempts.
    """
    if run_id := os.environ.get(RESTART_OF):
        return run_id
    if attempt() == 0:
        return None
    if not (tag := launch_tag()):
        _log.warning("torchrun has no --rdzv-id, so nodes cannot find their earlier run; a new run starts")
        return None
    runs = experiments.newest_runs(store.connect(), f"tags.`{TAG}` = '{tag[TAG]}'", most=1)
    return runs[0].info.run_id if runs else None
