"""A comparison from references to runs, and its files."""

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from project.engine.cli.command_parser import writing
from project.engine.comparison.report import Comparison, write_csv, write_markdown
from project.engine.comparison.runs import find_runs, why_not_tested, without_outdated
from project.engine.comparison.scores import compare_scores
from project.engine.tracking import store
from project.engine.tracking.leaderboard import comparison_page
from project.engine.tracking.recorded import differences


def compare(client: MlflowClient, references: Sequence[str], split: str | None) -> Comparison:
    """Compare runs.

    Args:
        client: Client of the store.
        references: Two or more runs; see `project.engine.tracking.run_reference`.
        split: The evaluated split; see `find_runs`.

    Raises:
        ValueError: A reference means no run, several, or the run of another reference.
    """
    found, split = find_runs(client, references, split)
    runs = [without_outdated(client, run, split) for run in found]
    return Comparison(
        runs=runs,
        split=split,
        differences=list(differences([run.recorded for run in runs])),
        scores=compare_scores(runs, split),
        notes=why_not_tested(runs, split),
        page=(store.server_address() or store.UI) + comparison_page([run.run for run in runs]),
    )


def write(client: MlflowClient, compared: Comparison, files: Sequence[Path]) -> None:
    """Write a comparison as reports (.md), as tables (.csv), or as pictures of the learning curves (.png).

    Raises:
        OSError: A file cannot be written.
    """
    pictures = [path.with_suffix(".png") for path in files if path.suffix != ".csv"]
    for path in dict.fromkeys([*pictures, *files]):
        with writing(path):
            if path.suffix == ".csv":
                write_csv(compared, path)
            elif path.suffix == ".md":
                write_markdown(compared, path, path.with_suffix(".png").name)
            else:
                from project.engine.comparison.curves import draw_curves  # Other files do not need matplotlib.

                draw_curves(client, compared.runs).savefig(path)
        print(f"written: {path}", flush=True)
