"""`--rerun`: a training with the settings of another run, which repeats its metrics."""

from pathlib import Path

import pytest
import tiny
import torch
from conftest import Fit
from mlflow import MlflowClient
from tiny import TINY

from project.engine.loading import ImageArray, Split
from project.engine.tracking import provenance
from project.fit import main

SPEEDS = ("throughput/", "system/", "data/")  # They depend on the load of the machine.
OPTIONS = ["--max_epochs=2", "--model.optimizer.lr=0.02", "--seed_everything=7", "--data.augmentation.crop_padding=2",
           "--trainer.log_every_n_steps=1"]  # fmt: skip


class Brighter(tiny.Tiny):
    """Other pixels under the same name."""

    def load(self, split: Split) -> ImageArray:
        data = super().load(split)
        return ImageArray(data.images + 5, data.targets)


def history(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of all points of each metric that training computes."""
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith(SPEEDS)]
    return {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in sorted(names)}


def newest(workplace: Path) -> str:
    return str(max(Fit(workplace, 0, "").runs, key=lambda run: run.info.start_time).info.run_id)


def test_a_rerun_repeats_every_point_of_every_metric_and_names_what_has_changed(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*TINY, *OPTIONS])
    first = newest(workplace)
    torch.rand(5)  # The state of the process does not matter.
    capsys.readouterr()
    main(["--rerun=latest"])
    output, second, client = capsys.readouterr().out, newest(workplace), Fit(workplace, 0, "").client
    before, again = history(client, first), history(client, second)
    # `best/*` begins with a value that is not a number.
    assert {name: [p for p in points if p[1] == p[1]] for name, points in again.items()} == {
        name: [p for p in points if p[1] == p[1]] for name, points in before.items()
    }
    assert {"train/loss", "val/accuracy", "test/loss", "lr", "epoch"} <= set(before)
    assert len(before["train/loss"]) == 8
    assert client.get_run(second).data.params == client.get_run(first).data.params
    assert client.get_run(second).data.tags["rerun_of"] == first
    assert "the same code, packages, data and devices" in output
    assert f"python -m project.compare {first} {second}" in output
    name_what_has_changed(workplace, first, capsys)


def name_what_has_changed(workplace: Path, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Change what is recorded of a run, and repeat it with other data."""
    packages, client = provenance.packages(), Fit(workplace, 0, "").client
    client.log_text(
        first, packages.replace(f"torch=={torch.__version__.partition('+')[0]}", "torch==1.0"), "requirements.txt"
    )
    client.set_tag(first, "git.commit", "abc")
    client.set_tag(first, "devices", "8 CUDA")
    client.set_tag(first, "resumed.trainer.max_epochs", "2")
    capsys.readouterr()
    main(["--rerun", first[:12], f"--data={__name__}.Brighter", "--model.optimizer.lr=0.03"])
    output, second = capsys.readouterr().out, newest(workplace)
    assert "warning: other code: commit abc -> " in output
    assert "warning: other data: digest " in output
    assert "samples of" not in output
    assert "warning: other packages: torch 1.0 -> " in output
    assert "warning: other devices: devices 8 CUDA -> 1 CPU" in output
    assert "warning: other resumption: settings changed by --resume trainer.max_epochs -> none" in output
    assert client.get_run(second).data.params["model.optimizer.lr"] == "0.03"  # An option changes the settings.
    assert client.get_run(second).data.params["trainer.max_epochs"] == "2"
