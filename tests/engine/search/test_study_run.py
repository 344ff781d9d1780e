"""The MLflow run of a study at its end."""

from pathlib import Path
from time import monotonic, sleep
from unittest.mock import Mock

import optuna
import pytest
from conftest import Fit
from filelock import FileLock
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from project.engine.search.space import SearchSpace
from project.engine.search.study_run import StudyRun
from project.engine.tracking.description import TAG
from project.engine.tracking.logger import MLflowLogger


def test_the_run_shows_where_each_trial_is_while_the_sweep_runs(workplace: Path) -> None:
    client, logger = MlflowClient(), MLflowLogger("digits", "study")
    study = optuna.create_study(direction="maximize")
    ranges: dict[str, BaseDistribution] = {"lr": FloatDistribution(0.0, 1.0)}
    space = SearchSpace({"val/accuracy": "maximize"}, ranges, None, None, Path("lr.yaml"), "")
    lock = FileLock(workplace / "lock")
    run = StudyRun(client, logger, study, space, lock, command="sweep", settings={})
    run.start()
    run_id = str(logger.version)
    assert study.metric_names == ["val/accuracy"]
    trial = study.ask(ranges)
    run.update()
    deadline = monotonic() + 60
    while f"| 0 | running |  | {trial.params['lr']:.3g} |" not in client.get_run(run_id).data.tags.get(TAG, ""):
        assert monotonic() < deadline
        sleep(0.2)
    study.tell(trial, state=TrialState.PRUNED)
    run.end("FINISHED")
    assert f"| 0 | pruned |  | {trial.params['lr']:.3g} |" in client.get_run(run_id).data.tags[TAG]
    table = Path(client.download_artifacts(run_id, "study/trials.csv")).read_text()
    assert table.startswith("number,state,value_val/accuracy,params_lr,datetime_start,duration")
    assert f"\n0,PRUNED,,{trial.params['lr']}," in table


def test_a_run_that_was_created_before_a_kill_is_that_of_the_study(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, study = MlflowClient(), optuna.create_study(direction="maximize")
    ranges: dict[str, BaseDistribution] = {"lr": FloatDistribution(0.0, 1.0)}
    space = SearchSpace({"val/accuracy": "maximize"}, ranges, None, None, Path("lr.yaml"), "space: {}")

    def started() -> StudyRun:
        logger, lock = MLflowLogger("digits", "study"), FileLock(workplace / "lock")
        run = StudyRun(client, logger, study, space, lock, command="sweep", settings={"model.depth": "3"})
        try:
            run.start()
        finally:
            logger.end("KILLED")
        return run

    with monkeypatch.context() as patch:
        patch.setattr(study, "set_user_attr", Mock(side_effect=ProcessLookupError))
        with pytest.raises(ProcessLookupError):
            started()
    started()
    fit = Fit(workplace, 0, "")
    assert study.user_attrs["mlflow_run"] == fit.run.info.run_id
    assert fit.run.data.params == {"model.depth": "3"}
    assert fit.text("search.yaml") == "space: {}"
    assert fit.run.data.tags["resumed"] == "sweep"


def test_an_error_in_a_part_of_the_report_leaves_the_other_parts(workplace: Path) -> None:
    client, logger = MlflowClient(), MLflowLogger("digits", "study")
    ranges = {"lr": FloatDistribution(0.0, 1.0), "loss": CategoricalDistribution(["$_x_$_y", "$_x_$_z"])}
    study = optuna.create_study(direction="maximize")
    for value in (0.1, 0.2, 0.3):
        params = {"lr": value, "loss": f"$_x_$_{'y' if value < 0.25 else 'z'}"}
        study.add_trial(create_trial(value=value, params=params, distributions=ranges, user_attrs={"run_id": "gone"}))
    space = SearchSpace({"val/accuracy": "maximize"}, ranges, None, None, Path("lr.yaml"), "")
    lock = FileLock(workplace / "lock")
    run = StudyRun(client, logger, study, space, lock, command="sweep", settings={})
    run.start()
    run.end("FINISHED")
    found = client.get_run(str(logger.version))
    assert found.info.status == "FINISHED"
    assert "gone" in found.data.tags["best.error"]
    assert "plots.error" not in found.data.tags
    note = found.data.tags[TAG]
    assert note.startswith(f"Study **{study.study_name}**: maximize `val/accuracy` over `lr`, `loss`.\n")
    assert "Trials: 3 complete. Best: trial 2 with 0.3000." in note
    assert "# train with the settings of trial 2\npython -m project.fit --rerun gone\n" in note
    assert "| 2 | complete | 0.3000 | 0.3 | $_x_$_z | [gone](" in note
    names = {Path(entry.path).name for entry in client.list_artifacts(found.info.run_id, "study")}
    assert names == {"trials.csv", "plots.html"}
