"""The table of a study's trials."""

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from project.engine.search.trials_table import markdown_table

RANGES = {"model.optimizer.lr": FloatDistribution(0, 1), "model.net.act": CategoricalDistribution(["a|b", "c"])}


def trial(
    lr: float, state: TrialState, value: float | None = None, reported: tuple[float, ...] = (), **attrs: Any
) -> FrozenTrial:
    return create_trial(
        state=state, value=value, params={"model.optimizer.lr": lr, "model.net.act": "a|b"}, distributions=RANGES,
        intermediate_values=dict(enumerate(reported)), user_attrs=attrs,
    )  # fmt: skip


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials([
        trial(0.1, TrialState.COMPLETE, 0.5, run_id="aa"),
        trial(0.2, TrialState.PRUNED, reported=(0.1, 0.25), run_id="bb"),
        trial(0.3, TrialState.FAIL, run_id="cc", error="the loss is not finite"),
        trial(0.123456, TrialState.COMPLETE, 0.75, run_id="dd", retry_of=2),
        trial(0.5, TrialState.RUNNING, reported=(0.3,), run_id="ee"),
        trial(0.6, TrialState.RUNNING),
    ])  # fmt: skip
    return study


def test_the_markdown_table_shows_where_each_trial_is(study: optuna.Study) -> None:
    lines = markdown_table(study, ["val/accuracy"], lambda run_id: f"[{run_id}](/{run_id})").splitlines()
    assert lines == [
        "| trial | state | val/accuracy | lr | act | run |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 4 | running after 1 validation | 0.3000 | 0.5 | a\\|b | [ee](/ee) |",
        "| 5 | running |  | 0.6 | a\\|b |  |",
        "| 3 | complete | 0.7500 | 0.123 | a\\|b | [dd](/dd) |",
        "| 0 | complete | 0.5000 | 0.1 | a\\|b | [aa](/aa) |",
        "| 1 | pruned after 2 validations | 0.2500 | 0.2 | a\\|b | [bb](/bb) |",
        "| 2 | failed |  | 0.3 | a\\|b | [cc](/cc) |",
    ]
    assert markdown_table(study, ["val/accuracy"], most=2).splitlines()[2:] == [
        "| 4 | running after 1 validation | 0.3000 | 0.5 | a\\|b | ee |",
        "| 5 | running |  | 0.6 | a\\|b |  |",
        "",
        "4 more trials are in study/trials.csv.",
    ]
    assert markdown_table(optuna.create_study(), ["val/accuracy"]) == ""
