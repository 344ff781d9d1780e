"""The overhead of a training step that `project.engine.runtime.step_overhead` removes."""

from pathlib import Path
from typing import Any

from conftest import SMALL_NET
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils._python_dispatch import TorchDispatchMode

from project.engine.runtime.step_overhead import reduce_step_overhead
from project.fit import main


def test_the_profiler_of_the_user_records_hooks() -> None:
    reduce_step_overhead()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, profiler="simple", accelerator="cpu", **quiet)
    trainer.fit(BoringModel())
    assert isinstance(trainer.profiler, SimpleProfiler)
    assert any(action.endswith("BoringModel.on_train_batch_start") for action in trainer.profiler.recorded_durations)


class Waits(TorchDispatchMode):
    """Counts the operations that would make a GPU wait: a value is read, or a number becomes a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func) in ("aten._local_scalar_dense.default", "aten.lift_fresh.default")
        return func(*args, **(kwargs or {}))


def test_a_step_makes_a_gpu_wait_only_if_it_is_logged(workplace: Path) -> None:
    waits: list[int] = []

    class Count(Callback):
        """Counts from the end of each batch, before its values are logged, to that of the next one."""

        mode: Waits | None = None

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.mode:
                self.mode.__exit__(None, None, None)
                waits.append(self.mode.count)
            self.mode = Waits() if batch_idx < 11 else None
            if self.mode:
                self.mode.__enter__()

    main([*SMALL_NET, "--model.class_path=tiny.TinyTask", "--max_epochs=1", "--trainer.limit_train_batches=16",
          "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.enable_progress_bar=false",
          "--trainer.log_every_n_steps=5", "--model.label_smoothing=0", "--data.augmentation.crop_padding=0"],
         [Count()])  # fmt: skip
    # In batch 4 the loss is checked, then the values are logged.
    assert [count > 0 for count in waits] == [number % 5 in (3, 4) for number in range(11)]
