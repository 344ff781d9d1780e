"""How the processes of a run find each other: on one machine over loopback alone, after a restart anew.

torch's store listens on every interface, and gloo on that of the host's name. A store that listens already on
the port of the rendezvous is used by torch in place of a new one, so it is opened here, where it may be.
"""

import os
import socket
import sys

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

_LOOPBACK = "127.0.0.1"
_INTERFACE = "lo" if sys.platform == "linux" else "lo0"


def prepare_rendezvous(trainer: Trainer) -> TCPStore | None:
    """Set up what `torch.distributed` will find when training starts.

    Returns:
        The store, in the process that serves it; it must live until training starts.
    """
    if trainer.world_size == 1:
        return None
    if trainer.num_nodes == 1:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", _INTERFACE)
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    if isinstance(environment, LightningEnvironment | SLURMEnvironment):
        if trainer.num_nodes > 1:
            return None
        os.environ["MASTER_ADDR"] = _LOOPBACK  # SLURM's own is the host's name
        return _serve(_LOOPBACK, environment.main_port) if trainer.is_global_zero else None
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        return _leave_store_of_torchrun(trainer.num_nodes)
    return None


def _leave_store_of_torchrun(nodes: int) -> TCPStore | None:
    """Agree on another store: torchrun's still has the addresses of processes that died, and gloo calls them."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(address, port, is_master=False)
    key = f"port of attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    served = None
    if os.environ["RANK"] == "0":
        served = _serve(_LOOPBACK if nodes == 1 else "", 0)
        shared.set(key, str(served.port))
    os.environ["MASTER_ADDR"] = _LOOPBACK if nodes == 1 else address
    os.environ["MASTER_PORT"] = shared.get(key).decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    return served


def _serve(address: str, port: int) -> TCPStore:
    listener = socket.create_server((address, port))
    port = listener.getsockname()[1]
    return TCPStore(
        address or _LOOPBACK,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
