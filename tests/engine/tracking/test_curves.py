"""What the metrics of a run are as charts of MLflow's UI."""

from pathlib import Path

from conftest import Fit
from tiny import TINY

from project.fit import main


def test_curves_have_epochs_and_final_scores_are_no_curves(workplace: Path) -> None:
    main([*TINY, "--max_epochs=3", "--trainer.log_every_n_steps=1"])
    done = Fit(workplace, 0, "")
    run = done.run

    def points(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in done.client.get_metric_history(run.info.run_id, name)]

    # The UI pairs the points of two metrics by their order, so each step must have one epoch.
    assert points("epoch") == [(step, (step + 1) / 4) for step in range(12)]
    assert {step for step, _ in points("train/loss") + points("val/accuracy")} <= {step for step, _ in points("epoch")}
    # The UI draws a metric whose last step is 0 as a bar.
    assert [step for step, _ in points("test/accuracy")] == [0]
    scores = [value for _, value in points("val/accuracy")]
    best = [value for _, value in points("best/val/accuracy")]
    assert best[1:] == [max(scores[:number]) for number in (1, 2, 3)]
    assert best[0] != best[0]  # NaN, before the first validation
    # The UI compares runs by the metric that is in the store first.
    assert next(iter(run.data.metrics)) == "best/val/accuracy"
