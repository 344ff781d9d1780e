"""The champion: the version of a registered model that an alias marks as the best, by a paired test."""

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from project.engine.comparison.paired import SIGNIFICANT
from project.engine.comparison.runs import find_runs
from project.engine.comparison.scores import Score, compare_scores
from project.engine.tracking import store
from project.engine.tracking.names import EVALUATION, score_text
from project.engine.tracking.registered import describe_as, register
from project.engine.tracking.tags import monitored

CHAMPION = "champion"
"""The alias of the best version."""


def register_challenger(client: MlflowClient, run_id: str, name: str, split: str) -> str:
    """Register the model of a run, and move the alias to it if it is significantly better than the champion.

    Args:
        client: Client of the store.
        run_id: The run, which was evaluated on the split.
        name: Name of the registered model.
        split: The evaluated split.

    Returns:
        A sentence with the version, and whether the alias has moved, and why.

    Raises:
        ValueError: The run has no logged model.
        MlflowException: The store does not respond, or refuses the name.
    """
    run = client.get_run(run_id)
    with FileLock(store.HOME / ".registry.lock"):  # Two commands must not decide about the same champion.
        version, is_new = register(client, run, name)
        number = client.get_registered_model(name).aliases.get(CHAMPION)
        if number == version.version:
            moves, why = False, "marks this version already"
        elif number is None:
            moves, why = True, "is set to it, because no version had it"
        else:
            moves, why = _challenge(client, client.get_model_version(name, number), run, split)
        if moves:
            client.set_registered_model_alias(name, CHAMPION, version.version)
            describe_as(client, version)
    how = "is registered" if is_new else "was registered before"
    return f"version {version.version} of {name} {how} (models:/{name}/{version.version}); the alias {CHAMPION} {why}"


def _challenge(client: MlflowClient, champion: ModelVersion, run: Run, split: str) -> tuple[bool, str]:
    """Return whether the alias moves from the champion to the model of a run, and the reason, the end of a sentence.

    It moves if the run is significantly better, or if the champion is an earlier checkpoint of the same run.
    """
    stays, run_id = f"stays at version {champion.version}", run.info.run_id
    if not champion.run_id:
        return False, f"{stays}, which was registered without its run, so it has no predictions to compare"
    if champion.run_id == run_id:
        return True, f"moves to it from version {champion.version}, an earlier checkpoint of the same run"
    try:
        runs, _ = find_runs(client, [champion.run_id, run_id], split)
    except ValueError as error:  # The run of the champion is deleted.
        return False, f"{stays}, but {error}"
    before, now = (one.predictions for one in runs)
    if before is None or now is None:
        lacking = champion.run_id if before is None else run_id
        option = "" if split == "test" else f" --split {split}"
        return False, (
            f"{stays}, because run {lacking} has no stored predictions on {split}; repeat this command after: "
            f"python -m project.evaluate {lacking}{option}"
        )
    if before.data != now.data:
        return (
            False,
            f"{stays}, which was evaluated on other {split} data: their digest is {before.data}, not {now.data}",
        )
    wanted = _score_name(run, split)
    score = next((score for score in compare_scores(runs, split) if score.name == wanted), None)
    if score is None or not score.test:
        return False, f"{stays}, because {f'{wanted} has no paired test' if wanted else 'the run monitors no metric'}"
    return _outcome(score, champion.version)


def _outcome(score: Score, champion: int | str) -> tuple[bool, str]:
    """Return whether the second of two runs is better, and the end of a sentence."""
    old, new = score.values
    assert old is not None and new is not None  # Otherwise there would be no test.
    p = next(p for p in score.p_values if p is not None)
    values, test = f"{score.name} {score_text(new)} against {score_text(old)}", f"{score.test}, p {p:.2g}"
    if score.better == 1:
        return True, f"moves to it from version {champion}: {values} is significantly better ({test})"
    if score.better == 0:
        return False, f"stays at version {champion}: {values} is significantly worse ({test})"
    return False, f"stays at version {champion}: {values} is not significantly better ({test}, not below {SIGNIFICANT})"


def _score_name(run: Run, split: str) -> str:
    """Return the name of the evaluated score that corresponds to the monitored metric; empty without one."""
    metric, _ = monitored(run.data.tags)
    return f"{EVALUATION}/{split}/{metric.partition('/')[2]}" if metric else ""
