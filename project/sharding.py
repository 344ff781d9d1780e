"""FSDP2: the strategy of `configs/strategy/fsdp.yaml` and how a net is cut into shards."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism over all devices, on GPUs as on CPUs.

    A checkpoint is one ordinary file with whole weights, the same that any other strategy writes.

    Source: Zhao et al., PyTorch FSDP, arXiv:2304.11277.

    Args:
        options: See `lightning.pytorch.strategies.ModelParallelStrategy`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False, **options
        )

    def setup_environment(self) -> None:
        """Shard over every process; Lightning's `auto` means one shard a node."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def teardown(self) -> None:
        """Wait for what is being saved, which Lightning's strategy does not."""
        super().teardown()
        self.checkpoint_io.teardown()


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a net in place, each of its top-level blocks on its own; a net that is sharded stays as it is."""
    if isinstance(net, FSDPModule):
        return
    blocks = net
    while len(children := list(blocks.children())) == 1:
        blocks = children[0]
    for block in children:
        if any(True for _ in block.parameters()) and not isinstance(block, nn.ModuleList | nn.ModuleDict):
            fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
