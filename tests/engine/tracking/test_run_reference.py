import pytest
from mlflow import MlflowClient

from project.engine.tracking import experiments, store
from project.engine.tracking.run_reference import find


@pytest.fixture
def client(workplace: object) -> MlflowClient:
    return store.connect()


def add(
    client: MlflowClient, score: float | None = None, *, of: str = "cats", status: str = "FINISHED",
    command: str = "python -m project.fit", monitor: str = "val/loss (min)", start: int = 0,
) -> str:  # fmt: skip
    tags = {"command": command, "monitor": monitor}
    run_id: str = client.create_run(experiments.experiment_id(client, of), start, tags).info.run_id
    if score is not None:
        client.log_metric(run_id, f"best/{monitor.split()[0]}", score)
    client.set_terminated(run_id, status)
    return run_id


def test_latest_is_the_newest_finished_fit_and_names_a_newer_failure(client: MlflowClient) -> None:
    add(client, start=1)
    newest = add(client, start=2, of="dogs")
    failed = add(client, start=3, status="FAILED")
    add(client, start=4, command="python -m project.sweep --search cnn")
    run, reason = find(client, "latest")
    assert run.info.run_id == newest
    assert find(client, "latest", finished=False).run.info.run_id == failed
    client.delete_run(newest)
    assert find(client, "latest").run.info.run_id != newest
    assert f"{failed} is newer, but FAILED" in reason


def test_best_follows_the_metric_and_its_mode_within_an_experiment(client: MlflowClient) -> None:
    best_loss = add(client, 0.1, start=1)
    add(client, 0.3, start=2)
    add(client, 0.01, status="KILLED", start=3)
    add(client, 0.001, of="dogs", start=4)
    assert find(client, "best:cats").run.info.run_id == best_loss
    add(client, 0.8, monitor="val/iou (max)", of="dogs", start=5)
    best_iou = add(client, 0.9, monitor="val/iou (max)", of="dogs", start=6)
    run, reason = find(client, "best")  # the experiment and the metric of the latest run
    assert (run.info.run_id, reason) == (best_iou, "the best of dogs, with val/iou 0.9000")


def test_the_beginning_of_an_id_is_enough(client: MlflowClient) -> None:
    runs = [add(client) for _ in range(17)]  # two of them begin with one of 16 letters
    assert find(client, runs[0]).run.info.run_id == find(client, runs[0][:12]).run.info.run_id == runs[0]
    first = next(run[0] for run in runs if sum(other[0] == run[0] for other in runs) > 1)
    with pytest.raises(ValueError, match=f"got run '{first}', but several ids begin with it, such as {first}"):
        find(client, first)


def test_a_registered_model_names_its_run(client: MlflowClient) -> None:
    run_id = add(client)
    client.create_registered_model("cats")
    version = client.create_model_version("cats", "runs:/x/model", run_id).version
    client.set_registered_model_alias("cats", "champion", version)
    assert find(client, "models:/cats@champion").run.info.run_id == run_id
    assert find(client, "models:/cats/1").run.info.run_id == run_id


@pytest.mark.parametrize(("reference", "message"), [
    ("latest", "has no finished run of project.fit"),
    ("best", "has no finished run of project.fit"),
    ("best:cat", "did you mean best:cats?"),
    ("best:cats", "the experiment has no finished run"),
    ("lastest", "did you mean latest?"),
    ("LATEST", "did you mean latest?"),
    ("abc", "got run 'abc', which is not in sqlite"),
    ("0" * 32, "which is not in sqlite"),
    ("../x", "which is not in sqlite"),
    ("a%", "which is not in sqlite"),
    ("", "which is not in sqlite"),
    ("models:/dogs@champion", "registered models are: none"),
    ("models:/dogs", "a registered model is models:/NAME@ALIAS"),
])  # fmt: skip
def test_an_unknown_run_is_named_with_the_remedy(reference: str, message: str, client: MlflowClient) -> None:
    experiments.experiment_id(client, "cats")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        find(client, reference)
    assert message in str(error.value)
