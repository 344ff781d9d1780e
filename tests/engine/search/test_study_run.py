"""The MLflow run of a study at its end."""

from pathlib import Path

import optuna
from filelock import FileLock
from mlflow import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from project.engine.search.space import SearchSpace
from project.engine.search.study_run import StudyRun
from project.engine.tracking.description import TAG
from project.engine.tracking.logger import MLflowLogger


def test_an_error_in_a_part_of_the_report_leaves_the_other_parts(workplace: Path) -> None:
    client, logger = MlflowClient(), MLflowLogger("digits", "study")
    ranges = {"lr": FloatDistribution(0.0, 1.0), "loss": CategoricalDistribution(["$_x_$_y", "$_x_$_z"])}
    study = optuna.create_study(direction="maximize")
    for value in (0.1, 0.2, 0.3):
        params = {"lr": value, "loss": f"$_x_$_{'y' if value < 0.25 else 'z'}"}
        study.add_trial(create_trial(value=value, params=params, distributions=ranges))
    space = SearchSpace({"val/accuracy": "maximize"}, ranges, None, None, "")
    lock = FileLock(workplace / "lock")
    run = StudyRun(client, logger, study, space, lock, command="sweep", settings={}, train=lambda _: "fit --lr 0.3")
    run.start()
    run.end("FINISHED")
    found = client.get_run(str(logger.version))
    assert found.info.status == "FINISHED"
    assert found.data.tags["best.error"] == "KeyError: 'run_id'"  # these trials have no runs
    assert "plots.error" not in found.data.tags
    note = found.data.tags[TAG]
    assert note.startswith(f"Study **{study.study_name}**: maximize `val/accuracy` over `lr`, `loss`.\n")
    assert "Trials: 3 complete. Best: trial 2 with 0.3." in note
    assert "# train again with the parameters of trial 2\nfit --lr 0.3\n" in note
    assert "| 2 | complete | 0.3000 | 0.3 | $_x_$_z |" in note
    names = {Path(entry.path).name for entry in client.list_artifacts(found.info.run_id, "study")}
    pictures = {f"{name}.png" for name in ("history", "parallel_coordinates", "slice", "importances")}
    assert names == {"trials.csv", "plots.html", *pictures}
