"""The rendezvous of a run's processes: over loopback on one machine, and repeated after a restart.

By default, torch's store listens on every interface, and gloo on the interface of the host's name. torch reuses a store
that already listens on the port. This module therefore opens one on the right interface.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from time import monotonic, sleep
from typing import TypeVar

from lightning import Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from project.engine.runtime.launcher import attempt, launcher

T = TypeVar("T")

_LOOPBACK = "127.0.0.1"
_INTERFACE = "lo" if sys.platform == "linux" else "lo0"
_POLL_EVERY_S = 0.2
_CONNECT_WITHIN_S = 1800.0


class FirstProcess:
    """The first process of those that torchrun or SLURM started; the others wait for its values, before training.

    Only the first process checks data and store, which may take hours. The rendezvous of `torch.distributed` fails
    after half an hour. This wait has no limit, and ends when the first process ends.

    Raises:
        OSError: The first process cannot be reached.
    """

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        started = launcher()
        if started is None or started.processes == 1:
            return
        environment: ClusterEnvironment = (
            TorchElasticEnvironment() if started.name == "torchrun" else SLURMEnvironment()
        )
        self._first = environment.global_rank() == 0
        if started.name == "SLURM":
            os.environ.setdefault("MASTER_PORT", str(_port_of_step()))
            if started.nodes == 1:
                os.environ["MASTER_ADDR"] = _LOOPBACK  # SLURM sets the host's name
        if self._first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self._store = _serve(_LOOPBACK if started.nodes == 1 else "", environment.main_port)
        else:
            self._store = _connect(environment.main_address, environment.main_port)

    def compute(self, name: str, make: Callable[[], T]) -> T:
        """Return a value that the first process computes. Without a launcher, this process computes it.

        Args:
            name: Name of the value; each name is used once.
            make: Computes the value, which JSON can hold.

        Raises:
            SystemExit: 1 in the other processes, if the first one ended, for example because of bad input.
        """
        if self._store is None:
            return make()
        key = f"attempt {attempt()}: {name}"
        if not self._first:
            return self._wait(self._store, key)
        value = make()
        self._store.set(key, json.dumps(value))
        return value

    def _wait(self, store: TCPStore, key: str) -> T:  # type: ignore[type-var]  # the type of the value of `make`
        try:
            while not store.check([key]):  # unlike `wait`, this lets Python handle signals
                sleep(_POLL_EVERY_S)
            value: T = json.loads(store.get(key))
        except DistError as error:
            print("error: the first process of the run has ended", file=sys.stderr)
            raise SystemExit(1) from error
        return value


def _port_of_step() -> int:
    """Return a port that each process of a step of SLURM knows; Lightning's is the same for all steps of a job."""
    job, step = int(os.environ.get("SLURM_JOB_ID", "0")[-4:]), int(os.environ.get("SLURM_STEP_ID", 0))
    return 15_000 + job + 10_000 * (step % 5)


def prepare_rendezvous(trainer: Trainer) -> TCPStore | None:
    """Set the addresses and open the store that `torch.distributed` uses when training starts.

    Returns:
        The store, in the process that serves it; it must not be closed before training starts.
    """
    if trainer.world_size == 1:
        return None
    if trainer.num_nodes == 1:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", _INTERFACE)
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    if isinstance(environment, LightningEnvironment):
        if trainer.num_nodes > 1:
            return None
        os.environ["MASTER_ADDR"] = _LOOPBACK
        return _serve(_LOOPBACK, environment.main_port) if trainer.is_global_zero else None
    if attempt():
        return _replace_store_of_torchrun(trainer.num_nodes)
    return None


def _replace_store_of_torchrun(nodes: int) -> TCPStore | None:
    """Open a new store, because torchrun's store has addresses of dead processes, to which gloo would connect."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(address, port, is_master=False)
    key = f"port of attempt {attempt()}"
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


def _connect(address: str, port: int) -> TCPStore:
    deadline = monotonic() + _CONNECT_WITHIN_S
    while True:  # in short calls, between which Python handles signals
        try:
            return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        except DistError as error:
            if monotonic() > deadline:
                raise OSError(f"the first process of the run does not respond at {address}:{port}: {error}") from error
