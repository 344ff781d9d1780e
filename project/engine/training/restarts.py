"""Restarted processes, which continue the run of their predecessors.

`torchrun --max-restarts`, SLURM (a job that is requeued or preempted) and a sweep restart processes.
"""

import logging
import os
from collections.abc import Sequence
from hashlib import sha256

from project.engine.runtime.launcher import TORCHRUN, attempt
from project.engine.tracking import experiments, store
from project.engine.tracking.owner import PREFIX, owner_tags
from project.engine.tracking.secrets import redact_options

_log = logging.getLogger(__name__)

TAG = f"{PREFIX}launch"
RESTART_OF = "PROJECT_RESTART_OF"
RUN_ID_VARIABLE = "PROJECT_RUN_ID"


def launch_tag(argv: Sequence[str]) -> dict[str, str]:
    """Return a tag that all attempts of a command share; empty if neither torchrun nor SLURM started this process.

    Args:
        argv: The options of the command; a job may consist of several commands.
    """
    if (launch := _launch()) is None:
        return {}
    options = sha256("\0".join(redact_options(argv)).encode()).hexdigest()
    return {TAG: f"{launch} {options[:16]}"}


def _launch() -> str | None:
    """Return a name of the SLURM job, or of the torchrun, that all of its attempts have."""
    if (job := os.environ.get("SLURM_JOB_ID")) is not None:
        return f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{job}"
    name = os.environ.get(TORCHRUN)
    if name != "none":
        return name
    if os.environ["GROUP_WORLD_SIZE"] != "1":
        return None  # Each node has its own launcher, and the environment does not show that they belong together.
    return ":".join(owner_tags(os.getppid()).values())  # The launcher outlives its attempts.


def run_before_restart(argv: Sequence[str]) -> str | None:
    """Return the MLflow run of the previous attempt; None on the first attempt, or if the previous one had no run.

    A sweep names it in the environment; torchrun and SLURM count attempts.

    Args:
        argv: The options of the command.
    """
    if (run_id := os.environ.get(RESTART_OF)) is not None:
        return run_id or None
    if not attempt() and not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    if not (tag := launch_tag(argv)):
        _log.warning("torchrun has no --rdzv-id, so nodes cannot find their earlier run; a new run starts")
        return None
    runs = experiments.newest_runs(store.connect(), f"tags.`{TAG}` = '{tag[TAG]}'", most=1)
    return runs[0].info.run_id if runs else None
