"""What a study's run in MLflow holds at its end, whatever cannot be made of it."""

from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from project.engine.search.space import SearchSpace
from project.engine.search.study_run import StudyRun
from project.engine.tracking.logger import MLflowLogger


def test_what_cannot_be_made_of_a_study_ends_no_sweep(workplace: Path) -> None:
    client, logger = MlflowClient(), MLflowLogger("digits", "study")
    ranges = {"lr": FloatDistribution(0.0, 1.0), "loss": CategoricalDistribution(["$_x_$_y", "$_x_$_z"])}
    study = optuna.create_study(direction="maximize")
    for value in (0.1, 0.2, 0.3):
        params = {"lr": value, "loss": f"$_x_$_{'y' if value < 0.25 else 'z'}"}
        study.add_trial(create_trial(value=value, params=params, distributions=ranges))
    run = StudyRun(client, logger, study, SearchSpace({"val/accuracy": "maximize"}, ranges, None, None, ""))
    run.start("sweep", {})
    run.end("FINISHED")
    found = client.get_run(str(logger.version))
    assert found.info.status == "FINISHED"
    assert found.data.tags["best.error"] == "KeyError: 'run_id'"  # these trials have made no runs
    assert "plots.error" not in found.data.tags
    names = {Path(entry.path).name for entry in client.list_artifacts(found.info.run_id, "study")}
    pictures = {f"{name}.png" for name in ("history", "parallel_coordinates", "slice", "importances")}
    assert names == {"trials.csv", "plots.html", *pictures}
