"""A signal at any moment: the exit code, the run's status, and a resumed run that equals an uninterrupted one."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from conftest import ROOT, Fit, clean_environment, fit
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.demos.boring_classes import BoringModel
from tiny import TINY
from torch import Tensor
from torchmetrics import Metric

from project.engine.training.stop import Interrupted, Interrupts
from project.fit import main

FEW = [
    "--max_epochs",
    "2",
    "--trainer.log_every_n_steps",
    "1",
    *(f"--trainer.limit_{split}_batches=3" for split in ("train", "val", "test")),
    *TINY,
    "--data.batch_size=2",
]


class SignalInItsEnd:
    """An object in whose finalizer, which drops exceptions, a signal arrives."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("outcome", "end"), [("", ""), ("the run is open", "; the run is open")])
def test_a_second_ctrl_c_exits_immediately_and_names_what_is_left(outcome: str, end: str, tmp_path: Path) -> None:
    code = f"""if True:
        import signal
        from project.engine.training.stop import Interrupts
        with Interrupts({outcome!r}) as interrupts:
            interrupts.on_train_start(None, None)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
    """
    command = Command("-c", code, folder=tmp_path, environment=clean_environment())
    output, _ = command.communicate()
    assert (command.wait(), output) == (130, f"\nexited immediately{end}\n")


def test_a_second_ctrl_c_ends_a_process_that_never_returns_from_a_call(tmp_path: Path) -> None:
    code = """if True:
        import hashlib, os, signal, threading
        from project.engine.training.stop import Interrupts
        with Interrupts() as interrupts:
            interrupts.on_train_start(None, None)
            for delay_s in (0.2, 0.3):
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    """
    command = Command("-c", code, folder=tmp_path, environment=clean_environment())
    output, _ = command.communicate()
    assert (command.wait(), output) == (130, "\nexited immediately\n")


@pytest.mark.faults
def test_a_second_ctrl_c_in_a_fit_names_its_run(tmp_path: Path) -> None:
    code = f"""if True:
        import signal
        from lightning import Callback
        from project.fit import main
        class CtrlCTwice(Callback):
            def on_train_batch_end(self, *args):
                for _ in range(2):
                    signal.raise_signal(signal.SIGINT)
        main({FEW}, [CtrlCTwice()])
    """
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = Command("-c", code, folder=tmp_path, environment=clean_environment() | paths)
    output, _ = command.communicate()
    run = Fit(tmp_path, command.wait(), output).run.info.run_id
    assert (command.wait(), output.splitlines()[-1]) == (
        130,
        f"exited immediately; continue with: python -m project.fit --resume {run}",
    )


def remove_and_wait() -> None:
    SignalInItsEnd()
    time.sleep(5)


def test_a_signal_whose_exception_python_drops_is_sent_again(capsys: pytest.CaptureFixture[str]) -> None:
    with Interrupts(), pytest.raises(Interrupted) as stopped:
        remove_and_wait()
    assert stopped.value.code == 143
    assert "Exception ignored" not in capsys.readouterr().err


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_a_lost_terminal_stops_training_unless_it_started_under_nohup(before: signal.Handlers) -> None:
    ours = signal.signal(signal.SIGHUP, before)
    try:
        with Interrupts():
            if before is signal.SIG_IGN:
                signal.raise_signal(signal.SIGHUP)
            else:
                with pytest.raises(Interrupted) as stopped:
                    signal.raise_signal(signal.SIGHUP)
                assert stopped.value.code == 143
    finally:
        assert signal.signal(signal.SIGHUP, ours) == before


class SignalAt(Callback):
    """A sender of SIGINT to this process in a hook, at one batch.

    Args:
        hook: Name of the hook.
        batch: Index of the batch.
    """

    def __init__(self, hook: str, batch: int) -> None:
        self.hook, self.batch = hook, batch

    def _act(self, hook: str, batch: int) -> None:
        if hook == self.hook and batch == self.batch:
            self.hook = "sent"
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._act("train", batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            self._act("validation", batch_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._act("test", batch_idx)


def test_all_hooks_of_the_batch_are_called_before_training_stops() -> None:
    ended: list[int] = []
    model, later = BoringModel(), LambdaCallback(on_train_batch_end=lambda *args: ended.append(args[-1]))
    model.on_train_batch_end = lambda *args: ended.append(args[-1])  # type: ignore[method-assign]
    with Interrupts() as interrupts, pytest.raises(Interrupted):
        Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, callbacks=[interrupts, SignalAt("train", 1), later],
        ).fit(model)  # fmt: skip
    assert ended == [0, 0, 1, 1]


class Share(Metric):
    """The share of right predictions, by a class that leaves torchmetrics' settings at their defaults."""

    right: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("right", "count"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += (outputs.argmax(1) == targets).sum()
        self.count += len(targets)

    def compute(self) -> Tensor:
        return self.right / self.count


# A metric with lists of the values of all batches, and one of a user.
METRICS = ["--model.metrics={auroc: torchmetrics.classification.MulticlassAUROC, share: test_interrupt.Share}"]


class Validations(Callback):
    """A count of the batches of each validation of a fit."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches.append(0)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.batches[-1] += 1


@pytest.mark.parametrize(
    ("hook", "batch"),
    [
        pytest.param("train", 1, id="train", marks=pytest.mark.faults),
        pytest.param("train", 2, id="last-of-train", marks=pytest.mark.faults),
        pytest.param("validation", 1, id="validation", marks=pytest.mark.faults),
        pytest.param("validation", 2, id="last-of-validation"),
        pytest.param("test", 2, id="last-of-test", marks=pytest.mark.faults),
    ],
)
def test_a_run_that_is_interrupted_anywhere_resumes(hook: str, batch: int, workplace: Path) -> None:
    at = ["--trainer.callbacks+=test_interrupt.SignalAt", f"--trainer.callbacks.hook={hook}",
          f"--trainer.callbacks.batch={batch}"]  # fmt: skip
    with pytest.raises(SystemExit, match="130"):
        main([*FEW, *at])
    stopped = Fit(workplace, 130, "")
    assert stopped.run.info.status == "KILLED"
    validations = Validations()
    main(["--resume", stopped.run.info.run_id, "--trainer.callbacks=null"], [validations])
    assert stopped.run.info.status == "FINISHED"
    # A validation that was interrupted is repeated, all of it; after an interrupted test none is left.
    assert set(validations.batches) == (set() if hook == "test" else {3})
    history = stopped.client.get_metric_history(stopped.run.info.run_id, "val/accuracy")
    assert [metric.step for metric in history] == [2, 5]
    history = stopped.client.get_metric_history(stopped.run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [0, 1, 2, 3, 4, 5]
    history = stopped.client.get_metric_history(stopped.run.info.run_id, "train/accuracy")
    assert [metric.step for metric in history] == [2, 5]


def test_a_signal_before_a_validation_within_an_epoch_waits_for_it(workplace: Path) -> None:
    few = [*FEW, "--max_epochs=1", "--trainer.limit_train_batches=4", "--trainer.val_check_interval=0.5"]
    with pytest.raises(SystemExit, match="130"):
        main(few, [SignalAt("train", 1)])
    stopped = Fit(workplace, 130, "")
    validations = Validations()
    main(["--resume", stopped.run.info.run_id], [validations])
    assert validations.batches == [3, 3]  # The first is the one that was due.
    for name, steps in (("val/accuracy", [1, 3]), ("train/loss", [0, 1, 2, 3]), ("train/accuracy", [3])):
        history = stopped.client.get_metric_history(stopped.run.info.run_id, name)
        assert [metric.step for metric in history] == steps, name


@pytest.mark.faults
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_interrupted_epoch_ends_with_the_weights_of_an_uninterrupted_one(accumulate: int, workplace: Path) -> None:
    # The schedule adds settings to the state of the optimizer.
    options = ["--max_epochs=1", "--trainer.limit_train_batches=6", f"--trainer.accumulate_grad_batches={accumulate}",
               "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", *TINY, "--data.batch_size=2",
               "--data.augmentation.crop_padding=1", "--trainer.log_every_n_steps=1",
               "--model.lr_schedule=OneCycleLR", "--model.lr_schedule.max_lr=0.01", *METRICS]  # fmt: skip
    at = ["--trainer.callbacks+=test_interrupt.SignalAt", "--trainer.callbacks.hook=train",
          "--trainer.callbacks.batch=1"]  # fmt: skip
    main(options)
    with pytest.raises(SystemExit, match="130"):
        main([*options, *at])
    stopped = next(run for run in Fit(workplace, 130, "").runs if run.info.status == "KILLED").info.run_id
    with pytest.raises(SystemExit, match="2"):
        main(["--resume", stopped, "--trainer.callbacks=null", "--data.batch_size=4"])
    main(["--resume", stopped, "--trainer.callbacks=null"])
    one, two = (torch.load(path, weights_only=True) for path in workplace.glob("mlruns/checkpoints/*/last.ckpt"))
    assert one["global_step"] == two["global_step"] == 6 // accumulate
    whole, resumed = Fit(workplace, 0, "").runs
    assert whole.info.status == resumed.info.status == "FINISHED"
    of_epoch = [f"train/{name}" for name in ("accuracy", "auroc", "share", "loss_epoch")]
    for name in (*of_epoch, "train/loss", "val/accuracy", "val/loss", "lr"):
        points = [
            [(point.step, point.value) for point in Fit(workplace, 0, "").client.get_metric_history(run_id, name)]
            for run_id in (whole.info.run_id, resumed.info.run_id)
        ]
        assert points[0] == points[1], name
    assert all(torch.equal(weight, two["state_dict"][name]) for name, weight in one["state_dict"].items())


@pytest.mark.faults
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_interrupted_epoch_of_two_processes_ends_with_the_same_weights(
    accumulate: int, strategy: str, tmp_path: Path
) -> None:
    options = ["--max_epochs=2", f"--strategy={strategy}", "--trainer.limit_train_batches=6", *METRICS]
    at = ["--trainer.callbacks+=test_interrupt.SignalAt", "--trainer.callbacks.hook=train",
          "--trainer.callbacks.batch=3"]  # fmt: skip
    if accumulate > 1:  # The validation is between accumulated batches.
        options += [f"--trainer.accumulate_grad_batches={accumulate}", "--trainer.val_check_interval=4"]
        at[1:] = ["--trainer.callbacks.hook=validation", "--trainer.callbacks.batch=1"]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}"}
    assert fit(tmp_path, *options, environment=environment).code == 0
    stopped = fit(tmp_path, *options, *at, environment=environment)
    assert stopped.code == 130, stopped.output
    run_id = next(run for run in stopped.runs if run.info.status == "KILLED").info.run_id
    last = torch.load(tmp_path / f"mlruns/checkpoints/{run_id}/last.ckpt", weights_only=True)
    assert ("accumulated_gradients" in last) == (accumulate > 1)
    assert fit(tmp_path, "--resume", run_id, "--trainer.callbacks=null", environment=environment).code == 0
    one, two = (torch.load(path, weights_only=True) for path in tmp_path.glob("mlruns/checkpoints/*/last.ckpt"))
    assert one["global_step"] == two["global_step"] == 12 // accumulate
    whole, resumed = (run.data.metrics for run in stopped.runs)
    for name in ("train/accuracy", "train/auroc", "train/share", "train/loss_epoch", "val/accuracy", "val/loss"):
        assert whole[name] == pytest.approx(resumed[name]), name
    for name, weight in one["state_dict"].items():
        # The mean of the accumulated gradients is taken before the later batches, which rounds differently.
        torch.testing.assert_close(
            weight, two["state_dict"][name], **({"rtol": 0, "atol": 0} if accumulate == 1 else {})
        )


def _twice_interrupted() -> None:
    with Interrupts() as interrupts:
        interrupts._in_loop = True  # In a loop, the first signal waits for the end of a batch.
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def test_a_second_ctrl_c_exits_immediately() -> None:
    process = multiprocessing.get_context("fork").Process(target=_twice_interrupted)
    process.start()
    process.join(10)
    assert process.exitcode == 130


def _interrupted_while_ranks_agree() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    for moment in range(100):
        with Interrupts() as interrupts:
            interrupts._in_loop = True
            interrupts._group = torch.distributed.group.WORLD
            threading.Timer(moment * 1e-5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            while not interrupts._is_interrupted():
                pass
            assert interrupts.signum == signal.SIGTERM
    os._exit(0)


def test_a_signal_while_ranks_agree_is_not_lost() -> None:
    process = multiprocessing.get_context("fork").Process(target=_interrupted_while_ranks_agree)
    process.start()
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 0
