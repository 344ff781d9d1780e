"""The launcher that started this process together with others: torchrun, SLURM, or none."""

import os
from dataclasses import dataclass

TORCHRUN, SLURM = "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"
"""Variables by which a process knows that torchrun or SLURM has started it."""
_INTERACTIVE = ("bash", "interactive")  # Lightning ignores srun in SLURM jobs with these names


@dataclass(frozen=True)
class Launcher:
    """A program that starts the processes of a run.

    Attributes:
        name: `torchrun` or `SLURM`.
        devices: Number of processes on each node, one for each device.
        nodes: Number of nodes.
    """

    name: str
    devices: int
    nodes: int

    @property
    def processes(self) -> int:
        """Number of processes on all nodes."""
        return self.devices * self.nodes


def launcher() -> Launcher | None:
    """Return the launcher of this process from the environment, or None.

    Raises:
        ValueError: Its nodes have different numbers of processes.
    """
    if TORCHRUN in os.environ:
        devices, processes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return _with_equal_nodes("torchrun", "--nproc-per-node", devices, processes, processes // devices)
    if SLURM not in os.environ or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return None
    processes, nodes = int(os.environ[SLURM]), int(os.environ.get("SLURM_NNODES", 1))
    if processes > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM: got --ntasks={processes} without --ntasks-per-node; give both sbatch and srun "
            f"--ntasks-per-node={processes // nodes}"
        )
    devices = int(os.environ.get("SLURM_NTASKS_PER_NODE", processes))
    return _with_equal_nodes("SLURM", "--ntasks-per-node", devices, processes, nodes)


def attempt() -> int:
    """Return how often torchrun has restarted the processes of this run; 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _with_equal_nodes(name: str, option: str, devices: int, processes: int, nodes: int) -> Launcher:
    if devices * nodes != processes:
        raise ValueError(
            f"{name}: got {processes} processes, {devices} of them on this node; each node must have the same number: "
            f"give {option}"
        )
    return Launcher(name, devices, nodes)
