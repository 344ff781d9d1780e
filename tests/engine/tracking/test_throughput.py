"""The logged throughput covers all batches of the steps since the previous value."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Fit
from lightning import Callback, Trainer
from tiny import TINY

from project.engine.tracking import throughput
from project.fit import main


class Clock(Callback):
    """A clock on which a batch takes a second, and a step of the optimizer four more."""

    def __init__(self) -> None:
        self.now = 0.0

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.now += 1

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        self.now += 4


def test_a_value_covers_all_accumulated_batches(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", lambda: clock.now)
    main([*TINY, "--data.batch_size=2", "--trainer.accumulate_grad_batches=4", "--trainer.log_every_n_steps=1",
          "--max_epochs=1"], [clock])  # fmt: skip
    run = Fit(workplace, 0, "")
    history = run.client.get_metric_history(run.run.info.run_id, throughput.IMAGES_PER_SECOND)
    assert [point.value for point in history] == [1.0, 1.0]  # 8 images in 4 + 4 seconds
