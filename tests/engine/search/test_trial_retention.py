"""The checkpoints of trials that have ended."""

from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from project.engine.checkpoints.durable import link_durably, write_durably
from project.engine.search.retention import release_checkpoints
from project.engine.tracking import store

WEIGHTS = torch.arange(50_000.0)


def train(run_id: str) -> Path:
    """Write the checkpoints of a run: `last.ckpt` and an older best checkpoint."""
    folder = store.checkpoint_folder(run_id)
    for name in ("best-epoch001.ckpt", "last.ckpt"):
        state = {"state_dict": {"w": WEIGHTS}, "loops": {}, "optimizer_states": [{"state": {0: WEIGHTS * 2}}]}
        write_durably(folder / name, state)
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_complete_trial_keeps_the_weights_of_its_best_checkpoint(workplace: Path) -> None:
    folder = train("run")
    assert size(folder) > 4 * WEIGHTS.nbytes
    release_checkpoints("run", TrialState.COMPLETE)
    assert [path.name for path in folder.iterdir()] == ["best-epoch001.ckpt"]
    assert size(folder) < 1.1 * WEIGHTS.nbytes


def test_the_only_checkpoint_of_a_complete_trial_is_kept_under_either_name(workplace: Path) -> None:
    folder = train("run")
    link_durably(folder / "last.ckpt", folder / "best-epoch001.ckpt")
    release_checkpoints("run", TrialState.COMPLETE)
    assert torch.equal(torch.load(folder / "best-epoch001.ckpt", weights_only=True)["state_dict"]["w"], WEIGHTS)
    (folder / "best-epoch001.ckpt").rename(folder / "last.ckpt")
    release_checkpoints("run", TrialState.COMPLETE)
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_a_trial_without_a_result_keeps_no_checkpoint(state: TrialState, workplace: Path) -> None:
    train("run")
    release_checkpoints("run", state)
    assert size(workplace / "mlruns/checkpoints") == 0
