"""A study is continued by sweeps with its settings; another sweep is refused in one line."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage

from project.engine.search.space import SearchSpace
from project.engine.search.study import open_study

SPACE = SearchSpace({"val/accuracy": "maximize"}, {"lr": FloatDistribution(0, 1)}, None, None, Path("lr.yaml"), "")
SETTINGS = {"search.lr": "0..1", "model.net": "CNN", "model.net.depth": "4", "data.batch_size": "32", "seed": "0"}


@pytest.mark.parametrize(
    ("removed", "changed", "message"),
    [
        ("", {"seed": "1"}, "has seed 0, but this sweep has 1; name another study with --study, or keep the options"),
        ("model.net.depth", {"model.net": "MLP", "model.net.width": "9"}, "has model.net CNN, but this sweep has MLP;"),
        ("seed", {"search.seed": "0..9"}, "has search.seed nothing, but this sweep has 0..9;"),
        ("", {"data.fast": "None", "seed": "1"}, "has data.fast nothing, but this sweep has None;"),
    ],
)
def test_other_settings_are_refused_with_the_reason_and_the_remedy(
    removed: str, changed: Mapping[str, str], message: str
) -> None:
    storage = InMemoryStorage()
    assert open_study(storage, "s", SPACE, SETTINGS).user_attrs == {}  # A dashboard shows these.
    open_study(storage, "s", SPACE, SETTINGS)
    now = {key: value for key, value in (SETTINGS | changed).items() if key != removed}
    with pytest.raises(ValueError, match=r"^--study: s ") as refused:
        open_study(storage, "s", SPACE, now)
    assert message in str(refused.value)
