"""A script that trains with each strategy as one of two processes, and writes what this rank holds.

python two_ranks.py FOLDER CASE..."""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from project.data import LabelledImages
from project.engine.checkpoints.resume import CurrentSettings
from project.engine.cli.command_line import CommandLine
from project.engine.loading import ImageArray, Split
from project.engine.runtime.fsdp2 import FSDP2Strategy, shard
from project.engine.runtime.process import configure_process
from project.engine.task import Task
from project.engine.training.callbacks import build_fit
from project.engine.training.stop import Interrupts
from project.tasks import ImageClassifier, Muon

COMMON = ["--model.net=two_ranks.Blocks", "--data.class_path=two_ranks.Noise", "--max_epochs=1", "--data.batch_size=32",
          "--trainer.logger=false", "--trainer.enable_progress_bar=false"]  # fmt: skip
SGD = ["--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9",
       "--trainer.gradient_clip_val=0.1"]  # fmt: skip
BFLOAT = ["--precision=bf16-mixed", "--model.channels_last=false"]
FINETUNED = [*SGD, "--trainer.callbacks+=two_ranks.Unfreeze", "--model.class_path=two_ranks.HeadOnly",
             "--model.lr_schedule=LinearLR", "--model.lr_schedule.total_iters=1"]  # fmt: skip
CASES = {
    "plain": SGD,
    "accumulated": [*SGD, "--data.batch_size=16", "--trainer.accumulate_grad_batches=2"],
    "bfloat": [*SGD, *BFLOAT, "--model.net.norm=batch"],
    "large": ["--model.net.width=3072", "--trainer.limit_train_batches=2"],  # Beyond malloc's pools.
}  # fmt: skip


class Noise(LabelledImages):
    """Random images: four batches of training for each of two ranks, and 127 images of validation."""

    name = "noise"
    native_size, native_channels = 16, 1
    native_mean, native_std = (0.5,), (0.3,)
    class_names = tuple("0123456789")

    def load(self, split: Split) -> ImageArray:
        count, draw = 256 if split == "train" else 127, torch.Generator().manual_seed(0)
        images = torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8, generator=draw)
        return ImageArray(images, torch.randint(10, (count,), generator=draw))


class Blocks(nn.Module):
    """A stem, a list of blocks under the name that most transformers use, and a head tied to the last block.

    Args:
        norm: The layer after the stem.
        width: Units of each block.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, norm: str = "none", width: int = 320):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1))
        self.norm = nn.BatchNorm2d(8, momentum=0.9) if norm == "batch" else nn.Identity()
        self.embed = nn.Linear(8 * (image_size // 4) ** 2, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(3))
        self.tied = nn.Linear(width, width, bias=False)
        self.tied.weight = self.embed_out = nn.Parameter(torch.randn(width, width) / width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        hidden = self.embed(self.norm(self.stem(images)).flatten(1))
        for block in self.blocks:
            hidden = hidden + torch.relu(block(hidden))
        logits: Tensor = self.head(self.tied(hidden) + hidden @ self.embed_out)
        return logits


class HeadOnly(ImageClassifier):
    """A classifier whose optimizer gets only the head."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.head.parameters())}]


class Unfreeze(BaseFinetuning):
    """A callback that gives the optimizer the embedding, too, which precedes the head in the net."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze([part for name, part in pl_module.net.named_children() if name != "head"], train_bn=False)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 0:
            self.unfreeze_and_add_param_group(pl_module.net.embed, optimizer, lr=0.05)


class Record(Callback):
    """Records the gradients of the last step, how the net computes, and the broadcasts between steps."""

    def __init__(self) -> None:
        self.grads: list[Tensor] = []
        self.unclipped: list[float] = []
        self.norms: list[float] = []
        self.seen: dict[str, Any] = {}
        self.broadcasts: list[int] = []
        self._broadcasts = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.broadcast = torch.distributed.broadcast if trainer.world_size > 1 else None
        if self.broadcast is not None:
            torch.distributed.broadcast = self._count_broadcast

    def _count_broadcast(self, *args: Any, **options: Any) -> Any:
        self._broadcasts += 1
        assert self.broadcast is not None
        return self.broadcast(*args, **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.broadcast is not None:
            torch.distributed.broadcast = self.broadcast

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.seen = {"dtype": str(output.dtype), "nhwc": output.is_contiguous(memory_format=torch.channels_last)}

        pl_module.net.stem[1].register_forward_hook(look)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.unclipped.append(norm(gradients(pl_module)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.grads = gradients(pl_module)
        self.broadcasts.append(self._broadcasts)
        self.norms.append(norm(self.grads))


def gradients(module: LightningModule) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def norm(tensors: list[Tensor]) -> float:
    """Return the norm of all tensors together, with the parts of all ranks."""
    squares = torch.stack([local(tensor).square().sum() for tensor in tensors]).sum()
    if isinstance(tensors[0], DTensor):
        torch.distributed.all_reduce(squares)
    return float(squares.sqrt())


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered from all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(tensors: list[Tensor]) -> int:
    """Count the bytes of this rank's part of tensors; they may share one piece of memory."""
    storages = [local(tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def train(options: list[str], save_as: Path | None = None, resume_from: Path | None = None) -> dict[str, Any]:
    """Train a case; return what this rank holds at the end."""
    before, record = psutil.Process().memory_info().rss, Record()
    with Interrupts() as interrupts:  # As in each fit.
        callbacks = [record, interrupts, *([CurrentSettings()] if resume_from else [])]
        cli = build_fit(CommandLine.parse([*COMMON, *options]), callbacks)
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=resume_from)
    parameters = list(cli.model.parameters())
    ctypes.CDLL(None).malloc_trim(0)  # A fit keeps freed memory for its next step.
    states = [value for state in cli.trainer.optimizers[0].state.values() for value in state.values() if value.ndim]
    result = {
        "parameters": held(parameters),
        "gradients": held(record.grads),
        "states": held(states),
        "resident": psutil.Process().memory_info().rss - before,
        "placements": sorted({str(p.placements) for p in parameters if isinstance(p, DTensor)}),
        "replicated": sum(not isinstance(p, DTensor) for p in parameters),
        "groups": [name for name, part in cli.model.net.named_modules() if isinstance(part, FSDPModule)],
        "unclipped": record.unclipped,
        "norms": record.norms,
        "broadcasts": record.broadcasts,
        "score": float(cli.trainer.callback_metrics["val/loss"]),
        **record.seen,
    }
    if save_as:
        cli.trainer.save_checkpoint(save_as)
        cli.trainer.strategy.checkpoint_io.teardown()
    return result


def train_synced() -> str:
    """Train with `sync_batchnorm`, whose layers refuse a CPU; return their message."""
    task = Task(Blocks(2, 1, 8, norm="batch"), nn.CrossEntropyLoss())
    data = TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    synced = Trainer(
        strategy=FSDP2Strategy(), accelerator="cpu", devices=2, sync_batchnorm=True, max_epochs=1,
        use_distributed_sampler=False, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
    )  # fmt: skip
    try:
        synced.fit(task, DataLoader(data))
    except ValueError as error:
        return str(error)
    return "trained"


def train_with_muon(mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
    """Take two steps with Muon, if there is a mesh with sharded filters; return the whole weights."""
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)), torch.randn(4, 3, 8, 8)
    if mesh is not None:
        shard(net, mesh)
    muon = Muon([weight for weight in net.parameters() if weight.ndim == 4])
    for _ in range(2):
        net(images).square().mean().backward()
        muon.step()
    return {name: whole(weight.detach()) for name, weight in net.named_parameters()}


def main(folder: Path, names: list[str]) -> None:
    """Train the cases of the command line, such as `plain-fsdp`."""
    configure_process()
    for name in names:
        case, _, strategy = name.partition("-")
        result = train([*CASES[case], "--strategy", strategy], folder / f"{name}.ckpt")
        (folder / f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(result))
    if "bfloat-fsdp" in names:
        options = [*FINETUNED, "--max_epochs=2", "--strategy=fsdp"]
        train(options, folder / "finetuned.ckpt", folder / "begun.ckpt")
        (folder / "synced.txt").write_text(train_synced())
        torch.save(
            train_with_muon(init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))), folder / "muon.pt"
        )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    main(Path(sys.argv[1]), sys.argv[2:])
