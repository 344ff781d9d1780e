from pathlib import Path

import pytest
import torch

from project.engine.checkpoints.durable import link_durably, write_durably
from project.engine.checkpoints.newest import newest_checkpoint
from project.engine.checkpoints.retention import keep_only_weights

WEIGHTS = torch.arange(100_000.0)


def test_a_stripped_run_keeps_its_weights_in_a_quarter_of_the_space(tmp_path: Path) -> None:
    state = {"state_dict": {"weight": WEIGHTS}, "loops": {}, "global_step": 7, "callbacks": {"ema": WEIGHTS + 1},
             "optimizer_states": [{"state": {0: WEIGHTS + 2}}], "lr_schedulers": [],
             "accumulated_gradients": {"weight": WEIGHTS + 3}}  # fmt: skip
    write_durably(tmp_path / "best-epoch001.ckpt", state)
    link_durably(tmp_path / "best-epoch001.ckpt", tmp_path / "last.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK")
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    for _ in range(2):  # the second time there is nothing to do
        keep_only_weights(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"best-epoch001.ckpt", "damaged.ckpt"}
        stripped = tmp_path / "best-epoch001.ckpt"
        assert stripped.stat().st_size < 1.01 * WEIGHTS.nbytes
        left = torch.load(stripped, weights_only=True)
        assert left["global_step"] == 7 and torch.equal(left["state_dict"]["weight"], WEIGHTS)
    with pytest.raises(FileNotFoundError, match=r"without optimizer state: \S*best-epoch001\.ckpt"):
        newest_checkpoint(tmp_path)
