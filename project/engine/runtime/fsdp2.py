"""FSDP2: the strategy of `configs/strategy/fsdp.yaml` and the division of a net into shards."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from project.engine.runtime.callbacks import callbacks_of

_SMALLEST_BLOCK = 100_000  # Parameters. Gathering a smaller block costs a round trip and saves little memory.


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism over all devices, on GPUs as on CPUs.

    A checkpoint is one ordinary file with whole weights, the same that any other strategy writes.

    Source: Zhao et al., PyTorch FSDP, arXiv:2304.11277.

    Args:
        options: See `lightning.pytorch.strategies.ModelParallelStrategy`.
    """

    lightning_restore_optimizer = True  # It then calls `load_optimizer_state_dict`.

    def __init__(self, **options: Any) -> None:
        super().__init__(
            data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False, **options
        )

    def setup_environment(self) -> None:
        """Shard over every process (Lightning's `auto` means one shard per node), and apply `sync_batchnorm`."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()
        module = self.lightning_module
        assert module is not None
        sharded = any(isinstance(part, FSDPModule) for part in module.modules())
        if sharded:  # The test calls it again, but a module can be sharded only once.
            module.configure_model = lambda: None  # type: ignore[method-assign]
        if self._layer_sync is not None and module.trainer.state.fn == TrainerFn.FITTING and not sharded:
            self._layer_sync.apply(module)  # Lightning does this for DDP alone.

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Give the optimizers the shards instead of the whole weights."""
        self._reshard()
        super().setup_optimizers(trainer)

    def on_validation_start(self) -> None:
        """Copy the running statistics of rank 0, which a checkpoint holds, to all ranks; DDP always does this."""
        assert self.lightning_module is not None
        for buffer in self.lightning_module.buffers():
            torch.distributed.broadcast(buffer, src=0)

    on_test_start = on_predict_start = on_validation_start

    def _reshard(self) -> None:
        """Make the shards the parameters again, instead of the whole weights, which the outermost module keeps."""
        assert self.model is not None
        for part in self.model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    on_validation_end = _reshard

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load on each rank its part of the weights of a checkpoint, which is read as with any other strategy.

        Lightning's method reads the file on each rank, although another node may not have it.
        """
        assert self.model is not None and self.lightning_module is not None
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
        options = StateDictOptions(full_state_dict=True, strict=self.lightning_module.strict_loading)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        return checkpoint

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load on each rank its part of the states of the optimizers, after callbacks have added their groups."""
        assert self.lightning_module is not None
        for callback in callbacks_of(self.lightning_module.trainer, BaseFinetuning):
            # Lightning calls it too early: with this strategy, the callback had no state then.
            BaseFinetuning.on_fit_start(callback, self.lightning_module.trainer, self.lightning_module)
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            numbers = [number for group in whole["param_groups"] for number in group["params"]]
            state = {
                number: {name: _part(value, parameter) for name, value in whole["state"][number].items()}
                for number, parameter in zip(numbers, parameters, strict=False)
                if number in whole["state"]
            }
            optimizer.load_state_dict({**whole, "state": state})

    def teardown(self) -> None:
        """Wait until checkpoints are saved; Lightning's strategy does not wait."""
        super().teardown()
        self.checkpoint_io.teardown()


def _part(value: Any, parameter: nn.Parameter) -> Any:
    """Return this rank's part of a value of the state of a parameter; of another shape, each rank has the whole."""
    if not (isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.ndim):
        return value
    mesh = parameter.device_mesh
    placements = parameter.placements if value.shape == parameter.shape else [Replicate()] * mesh.ndim
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def check_shardable(net: nn.Module, *, compiled: bool | str = False) -> None:
    """Raise ValueError for a parameter that FSDP2 cannot shard, or if the net is to be compiled."""
    if compiled:
        raise ValueError(
            f"--model.compile: got {str(compiled).lower()}, but torch.compile does not change a sharded net; leave it "
            "out, or use --strategy ddp"
        )
    for name, parameter in net.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"--strategy fsdp: the net's parameter {name} has the shape (), which cannot be sharded; give it the "
                "shape (1,), or use --strategy ddp"
            )


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Shard all parameters of a net in place, its blocks one by one.

    Args:
        net: Its parameters are contiguous.
        mesh: Lightning's mesh. Its second dimension, `tensor_parallel`, is left out, because `fully_shard` interprets
            two dimensions as hybrid sharding, which replicates over the first one.
    """
    for block in list(_blocks(net)):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(net, mesh=mesh["data_parallel"])  # the parameters outside of blocks


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of the outermost lists of layers that are large and share no parameter with others."""
    uses = Counter(id(parameter) for _, parameter in net.named_parameters(remove_duplicate=False))
    for block in _elements(net):
        parameters = [parameter for _, parameter in block.named_parameters(remove_duplicate=False)]
        inside = Counter(id(parameter) for parameter in parameters)
        large = sum(parameter.numel() for parameter in block.parameters()) >= _SMALLEST_BLOCK
        if large and all(uses[key] == count for key, count in inside.items()):
            yield block


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _is_list(module) and not _is_list(child):
            yield child
        else:
            yield from _elements(child)


def _is_list(module: nn.Module) -> bool:
    """Return whether a module only holds others: a Sequential, or one that is never called, such as a ModuleList."""
    return type(module) is nn.Sequential or type(module).forward is nn.Module.forward
