"""Every step is saved when training ends, and a score belongs to the weights that are saved under it."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from test_interrupt import SignalAt
from tiny import TINY
from torchmetrics.functional.classification import multiclass_accuracy

from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.training.callbacks import build_fit
from project.fit import main

# Eight steps an epoch, all of the validation images, and a rate at which each step changes the score.
SMALL = [*TINY, "--max_epochs=1", "--trainer.limit_test_batches=1", "--data.batch_size=2",
         "--trainer.log_every_n_steps=1", "--model.optimizer.lr=0.02"]  # fmt: skip


def checkpoints(folder: Path) -> dict[str, dict[str, Any]]:
    """The last and the best checkpoint of the only run, and those of the user, by name."""
    files = [path for path in folder.glob("mlruns/checkpoints/*/*.ckpt") if path.name != "previous.ckpt"]
    return {path.name: torch.load(path, weights_only=True) for path in files}


def test_a_run_whose_best_and_last_checkpoint_is_one_damaged_file_resumes_from_the_previous_one(
    workplace: Path,
) -> None:
    main([*SMALL, "--max_epochs=3", "--trainer.limit_train_batches=4", "--model.optimizer.lr=0.001",
          "--checkpoint.monitor=val/loss"])  # fmt: skip
    (folder,) = Path("mlruns/checkpoints").iterdir()
    last = folder / "last.ckpt"
    (best,) = folder.glob("best*.ckpt")
    assert last.samefile(best)
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size // 2)
    found = newest_checkpoint(folder)
    assert found is not None
    assert torch.load(found, weights_only=True)["global_step"] == 8


@cache
def built() -> FitCLI:
    """Build the model and the data of all fits, once."""
    cli = build_fit(CommandLine.parse([*SMALL, "--trainer.logger=false"]))
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    cli.datamodule.setup("test")
    return cli


def score(weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """Validate weights, and test them on one batch, without a trainer."""
    cli = built()
    cli.model.load_state_dict(weights)
    cli.model.eval()
    val, test = list(cli.datamodule.val_dataloader()), list(cli.datamodule.test_dataloader())[:1]
    return _metrics("val", cli.model, val) | _metrics("test", cli.model, test)


def _metrics(split: str, model: torch.nn.Module, batches: list[Any]) -> dict[str, float]:
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    return {
        f"{split}/accuracy": float(multiclass_accuracy(logits, labels, logits.shape[1], average="micro")),
        f"{split}/loss": float(torch.nn.functional.cross_entropy(logits, labels)),
    }


def best_metrics(fit: Fit) -> dict[str, float]:
    """Return the metrics that the run logs of its best checkpoint."""
    metrics = fit.run.data.metrics
    best = {name.removeprefix("best/"): value for name, value in metrics.items() if name.startswith("best/")}
    return best | {name: value for name, value in metrics.items() if name.startswith("test/")}


def logged(fit: Fit, name: str) -> list[int]:
    return [metric.step for metric in fit.client.get_metric_history(fit.run.info.run_id, name)]


class Stop(Callback):
    """Ends training after a number of steps: asks for it, or raises what a hook or the user would."""

    def __init__(self, step: int, *, with_error: type[BaseException] | None = None, at_epoch_end: bool = False) -> None:
        self.step, self.with_error, self.at_epoch_end = step, with_error, at_epoch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and not self.at_epoch_end:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step and self.at_epoch_end:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if self.with_error:
            raise self.with_error("stop")
        trainer.should_stop = True


# By the way in which training ends: fits of one run, of which the second resumes the first. Of each fit: options, a
# callback, the last step, and the steps that have been validated.
ENDS: dict[str, list[tuple[list[str], Callback | None, int, list[int]]]] = {
    "max-steps-within-an-epoch": [
        (["--trainer.max_steps=5"], None, 5, [5]),
        (["--trainer.max_steps=12", "--max_epochs=2"], None, 12, [5, 8, 12]),
    ],
    "max-steps-at-an-epoch's-end": [
        (["--trainer.max_steps=8"], None, 8, [8]),
        (["--trainer.max_steps=10", "--max_epochs=2"], None, 10, [8, 10]),
    ],
    "epochs-between-checkpoints": [
        (["--max_epochs=9", "--checkpoint.every_n_epochs=3"], Stop(16, at_epoch_end=True), 16, [8, 16]),
        (["--max_epochs=4"], None, 32, [8, 16, 24, 32]),
    ],
    "epochs-between-validations": [
        (["--max_epochs=2", "--trainer.check_val_every_n_epoch=3"], None, 16, [16]),
        (["--max_epochs=4"], None, 32, [16, 24, 32]),
    ],
    "max-steps-between-validations": [
        (["--max_epochs=2", "--trainer.check_val_every_n_epoch=3", "--trainer.max_steps=16"], None, 16, [16]),
        (["--max_epochs=4", "--trainer.max_steps=28"], None, 28, [16, 24, 28]),
    ],
    "validations-within-an-epoch": [(["--trainer.val_check_interval=0.4"], None, 8, [3, 6, 8])],
    "a-callback-within-an-epoch": [(["--trainer.check_val_every_n_epoch=3"], Stop(5), 5, [5])],
    "a-callback-after-an-epoch": [
        (["--max_epochs=9", "--trainer.check_val_every_n_epoch=3"], Stop(16, at_epoch_end=True), 16, [16]),
        (["--max_epochs=3"], None, 24, [16, 24]),
    ],
    "accumulated-gradients": [(["--trainer.accumulate_grad_batches=3", "--trainer.max_steps=2"], None, 2, [2])],
}
# These end in the same way as one of the other rows, with other numbers.
SLOW_ENDS = {"max-steps-at-an-epoch's-end", "epochs-between-checkpoints", "epochs-between-validations",
             "max-steps-between-validations", "a-callback-within-an-epoch", "a-callback-after-an-epoch"}  # fmt: skip


@pytest.mark.parametrize(
    "fits",
    [pytest.param(fits, id=name, marks=pytest.mark.faults if name in SLOW_ENDS else ()) for name, fits in ENDS.items()],
)
def test_the_last_step_is_validated_and_saved_and_the_next_fit_continues_after_it(
    fits: list[tuple[list[str], Callback | None, int, list[int]]], workplace: Path
) -> None:
    start = SMALL
    for options, callback, last, validated in fits:
        main([*start, *options], [callback] if callback else [])
        fit = Fit(workplace, 0, "")
        saved = checkpoints(workplace)
        best = saved.pop(next(name for name in saved if name.startswith("best")))
        assert list(saved) == ["last.ckpt"]
        assert saved["last.ckpt"]["global_step"] == last
        assert [step + 1 for step in logged(fit, "val/loss")] == validated
        assert best["global_step"] in validated
        assert score(best["state_dict"]) == pytest.approx(best_metrics(fit), abs=1e-5)
        start = ["--resume", fit.run.info.run_id]
    assert logged(fit, "train/loss") == list(range(last))


def test_steps_before_an_error_are_saved(workplace: Path) -> None:
    with pytest.raises(SystemExit):
        main([*SMALL, "--max_epochs=2"], [Stop(11, with_error=KeyboardInterrupt)])
    fit = Fit(workplace, 1, "")
    assert fit.run.info.status == "FAILED"
    saved = checkpoints(workplace)
    assert {name: state["global_step"] for name, state in saved.items()} == {"best-epoch000.ckpt": 8, "last.ckpt": 11}
    main(["--resume", fit.run.info.run_id])
    assert logged(fit, "train/loss") == [step for step in range(16) if step != 10]  # Lightning logs it after the hook
    assert [step + 1 for step in logged(fit, "val/loss")] == [8, 16]


HALF = ["--trainer.val_check_interval=0.5"]


class RaiseIn(Callback):
    """Raises an error within a training step, once the loss of a batch has its gradients, or in another hook.

    Args:
        batch: Index of the batch, counted over all epochs.
        hook: Name of the hook.
    """

    def __init__(self, batch: int, hook: str = "on_after_backward") -> None:
        self.batch, self.hook = batch, hook

    def _act(self, trainer: Trainer, hook: str) -> None:
        batch = trainer.current_epoch * int(trainer.num_training_batches) + trainer.fit_loop.epoch_loop.batch_idx
        if hook == self.hook and batch == self.batch:
            self.hook = "raised"
            raise RuntimeError("a step fails")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act(trainer, "on_after_backward")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._act(trainer, "optimizer"))

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._act(trainer, "on_train_batch_end")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act(trainer, "on_validation_start")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._act(trainer, "on_validation_batch_end")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act(trainer, "on_validation_epoch_end")


ACCUMULATED = ["--trainer.accumulate_grad_batches=4"]
# By the place of the errors: options, and the errors of one run, each with the step of the checkpoint after it.
ERRORS: dict[str, tuple[list[str], list[tuple[RaiseIn, int]]]] = {
    "optimizer-step-validation": (
        HALF, [(RaiseIn(6, "optimizer"), 4), (RaiseIn(9), 9), (RaiseIn(11, "on_validation_epoch_end"), 12)]
    ),
    "last-step-of-an-epoch": ([], [(RaiseIn(15), 15)]),
    "step-after-validation-within": (HALF, [(RaiseIn(12), 12)]),
    "accumulated-step": (ACCUMULATED, [(RaiseIn(13), 2)]),
    "between-accumulated-batches": (ACCUMULATED, [(RaiseIn(13, "on_train_batch_end"), 3)]),
    "validation-between-accumulated-batches": (["--trainer.accumulate_grad_batches=3", *HALF], [(RaiseIn(4), 1)]),
    "before-validation": ([], [(RaiseIn(15, "on_train_batch_end"), 8)]),
    "before-validation-within": (HALF, [(RaiseIn(11, "on_train_batch_end"), 8)]),
    "start-of-validation": ([], [(RaiseIn(7, "on_validation_start"), 8)]),
    "validation": ([], [(RaiseIn(15, "on_validation_batch_end"), 16)]),
}  # fmt: skip
FAST_ERRORS = {"optimizer-step-validation"}  # A signal between accumulated batches is in test_interrupt.py.


@pytest.mark.parametrize(
    ("options", "errors"),
    [
        pytest.param(*row, id=name, marks=() if name in FAST_ERRORS else pytest.mark.faults)
        for name, row in ERRORS.items()
    ],
)
def test_a_run_resumes_after_errors_as_if_there_had_been_none(
    options: list[str], errors: list[tuple[RaiseIn, int]], workplace: Path
) -> None:
    few = [*SMALL, "--max_epochs=2", *options]
    main(few)
    whole = Fit(workplace, 0, "").run.info.run_id
    start = few
    for error, step in errors:
        with pytest.raises(RuntimeError, match="a step fails"):
            main(start, [error])
        run = next(run for run in Fit(workplace, 1, "").runs if run.info.run_id != whole)
        assert run.info.status == "FAILED"
        resumed = run.info.run_id
        saved = torch.load(workplace / f"mlruns/checkpoints/{resumed}/last.ckpt", weights_only=True)["global_step"]
        assert saved == step
        start = ["--resume", resumed]
    main(start)
    client = Fit(workplace, 0, "").client
    for name in ("train/loss", "val/loss", "val/accuracy", "train/accuracy"):
        one, two = (
            {(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)}
            for run_id in (whole, resumed)
        )
        assert sorted(one) == sorted(two), name
    last, again = (torch.load(path, weights_only=True) for path in workplace.glob("mlruns/checkpoints/*/last.ckpt"))
    assert last["global_step"] == again["global_step"]
    assert all(torch.equal(weight, again["state_dict"][name]) for name, weight in last["state_dict"].items())


def test_a_signal_in_the_validation_of_the_last_step_waits_for_its_score(workplace: Path) -> None:
    # A run that has done max_steps has nothing to resume, so that the validation would never be completed.
    with pytest.raises(SystemExit, match="130"):
        main([*SMALL, "--trainer.max_steps=5"], [SignalAt("validation", 1)])
    fit = Fit(workplace, 130, "")
    assert fit.run.info.status == "KILLED"
    saved = checkpoints(workplace)
    assert {name: state["global_step"] for name, state in saved.items()} == {"best-epoch000.ckpt": 5, "last.ckpt": 5}


def test_untracked_fits_have_a_folder_each(workplace: Path) -> None:
    few = [*SMALL, "--trainer.logger=false", "--trainer.limit_val_batches=1"]
    main([*few, "--trainer.max_steps=1"])
    main([*few, "--trainer.max_steps=2"])
    files = workplace.glob("mlruns/checkpoints/untracked-*/last.ckpt")
    assert sorted(torch.load(file, weights_only=True)["global_step"] for file in files) == [1, 2]
