"""The comparison of runs: what differs, and which scores differ by more than noise."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import clean_environment
from mlflow import MlflowClient
from PIL import Image
from pyarrow import parquet
from runs import ExampleRuns, Runs
from scipy.stats import binomtest

from project.compare import main
from project.engine.comparison.job import compare, write
from project.engine.comparison.report import Comparison
from project.engine.comparison.scores import Score
from project.engine.tracking import store


def compared(*runs: str) -> Comparison:
    return compare(store.connect(), runs, None)


def score_of(comparison: Comparison, name: str) -> Score:
    return next(score for score in comparison.scores if score.name == name)


def is_right(client: MlflowClient, run_id: str) -> list[bool]:
    samples = parquet.read_table(client.download_artifacts(run_id, "eval/test/predictions.parquet")).to_pydict()
    return [guess == true for guess, true in zip(samples["class"], samples["true_class"], strict=True)]


def test_a_better_run_is_marked_and_an_equal_one_is_not(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    good, same, bad = runs.good, runs.same, runs.bad
    equal = compared(good, same)
    for name in ("loss", "accuracy", "calibration_error"):
        score = score_of(equal, f"eval/test/{name}")
        assert (score.better, score.p_values) == (None, (None, 1.0))
        assert score.values[0] == score.values[1]
    assert [d.name for d in equal.differences] == ["trainer.log_every_n_steps"]
    assert equal.differences[0].values[1] == "7"

    better = compared(bad, good)
    accuracy, loss = score_of(better, "eval/test/accuracy"), score_of(better, "eval/test/loss")
    client = store.connect()
    values = [client.get_run(run).data.metrics["eval/test/accuracy"] for run in (bad, good)]
    assert (accuracy.better, accuracy.test, list(accuracy.values)) == (1, "McNemar", values)
    right = [is_right(client, run) for run in (bad, good)]
    only_bad, only_good = (sum(a and not b for a, b in zip(*pair, strict=True)) for pair in (right, right[::-1]))
    assert only_good > 5
    assert accuracy.p_values == (pytest.approx(binomtest(only_bad, only_bad + only_good).pvalue), None)
    assert (loss.better, loss.test, loss.p_values) == (1, "bootstrap", (pytest.approx(2 / 1001), None))
    assert loss.values[1] < loss.values[0]
    # The split of train is no part of the test data.
    assert [d.name for d in better.differences] == ["data.split_seed", "model.optimizer.lr"]
    assert score_of(better, "best/val/loss").test == ""

    three = score_of(compared(good, bad, same), "eval/test/accuracy")
    assert three.better is None  # two runs are equally good
    assert three.p_values == (None, pytest.approx(min(1, 2 * accuracy.p_values[0])), 1.0)
    capsys.readouterr()
    main([good, bad, same, "--output=out.md", "--output=out.csv", "--output=out.png"])
    shown = capsys.readouterr().out
    assert re.findall("written: (.*)", shown) == ["out.png", "out.md", "out.csv"]
    assert "corrected by Holm's method" in shown
    assert "seed 0" in shown
    check_files(good, bad, same, accuracy.p_values[0])


def check_files(good: str, bad: str, same: str, p_value: float | None) -> None:
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    accuracy = next(row for row in rows if row["name"] == "eval/test/accuracy")
    assert p_value is not None
    assert (float(accuracy[f"p {bad}"]), accuracy["better"]) == (pytest.approx(2 * p_value), "")
    rate = next(row for row in rows if row["name"] == "model.optimizer.lr")
    assert (rate["kind"], rate[good], rate[bad]) == ("settings", "0.002", "1e-09")
    text = Path("out.md").read_text()
    assert "![Learning curves](out.png)" in text
    assert "| settings | model.optimizer.lr | 0.002 | 1e-09 | 0.002 |" in text
    assert min(Image.open("out.png").size) > 300
    address = next(line for line in text.splitlines() if line.startswith("<http"))[1:-1]
    query = parse_qs(urlsplit(address.replace("/#/", "/")).query)
    assert json.loads(query["runs"][0]) == [good, bad, same]
    assert len(json.loads(query["experiments"][0])) == 1


def test_runs_without_predictions_for_the_same_data_are_not_tested(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other, without = runs.good, runs.other_test_data, runs.not_evaluated
    client = MlflowClient()
    client.log_text(without, "torch==1.0\n", "requirements.txt")
    comparison = compared(good, other, without)
    assert all(score.test == "" for score in comparison.scores)
    assert score_of(comparison, "test/accuracy").values[2] == client.get_run(without).data.metrics["test/accuracy"]
    assert comparison.notes[0].startswith(f"{other[:8]} is not tested, because its test data are different")
    assert comparison.notes[1].endswith(f"of its best checkpoint: python -m project.evaluate {without}")
    Path("full.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"^cannot write full.csv \(No space left on device\)$"):
        write(client, comparison, [Path("full.csv")])
    failed = client.create_run("0").info.run_id
    client.log_metric(failed, "test/accuracy", math.nan)
    client.set_terminated(failed, "FAILED")
    main([good, failed])
    assert re.search(r"test/accuracy +│ \d\.\d{4} +│ — +│\n", capsys.readouterr().out)  # no column of tests
    differing = {(d.kind, d.name): d.values for d in comparison.differences}
    assert differing["packages", "torch"][2] == "1.0"
    assert len(set(differing["data", "digest"])) == 2
    assert ("data", "name") not in differing
    main([good, other, without, failed, "--output=curves.png"])
    printed = capsys.readouterr().out
    assert f"python -m project.evaluate {without}" in printed
    assert "throughput/average_samples_per_second" in printed  # No name is broken in a pipe.
    assert Path("curves.png").stat().st_size > 10_000
    best = client.get_run(good).data.metrics["best/val/accuracy"]
    client.log_metric(good, "best/val/accuracy", best, step=10**5)  # A later validation was not better.
    evaluated = compared(good, runs.bad)
    assert score_of(evaluated, "eval/test/accuracy").values[0] is not None
    client.log_metric(good, "best/val/accuracy", 2.0, step=10**6)  # A resumed training has found a better checkpoint.
    resumed = compared(good, runs.bad)
    assert score_of(resumed, "eval/test/accuracy").values[0] is None
    assert (
        f"{good[:8]} is not tested, because it has no stored predictions of its best checkpoint: " in resumed.notes[0]
    )


@pytest.mark.faults
def test_comparing_and_cleaning_do_not_import_torch(workplace: Path) -> None:
    client = MlflowClient()
    runs = [client.create_run("0", run_name=name).info.run_id for name in ("one", "two")]
    for place, run in enumerate(runs):
        client.log_metric(run, "val/loss", place)
    code = f"""if True:
        import sys
        import project.clean
        from project.compare import main
        try:
            main(["--help"])
        except SystemExit as end:
            assert end.code == 0
        assert "torch" not in sys.modules and "lightning" not in sys.modules
        main({runs} + ["--output=out.png", "--output=out.csv"])
        assert "matplotlib" in sys.modules
        assert "torch" not in sys.modules and "lightning" not in sys.modules
        main([{runs[0]!r}, "nothing"])
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=clean_environment() | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: got run 'nothing', which is not in")
    assert "#/compare-runs?runs=" in done.stdout


def test_bad_input_is_refused_in_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient()
    runs = [client.create_run("0").info.run_id for _ in range(2)]
    for argv, message in [
        ([], "RUN"),
        ([runs[0]], f"got the run {runs[0]} alone; give two or more"),
        ([runs[0], runs[0][:20]], f"which are the same run {runs[0]}"),
        ([runs[0], "lates"], "did you mean latest?"),
        ([runs[0], "latest"], "has no finished run of project.fit"),
        ([*runs, "--output", "x.pdf"], "got x.pdf; it must end in .md, .csv, .png"),
        ([*runs, "--output", "nowhere/x.md"], "the folder nowhere does not exist"),
        ([*runs, "--split", "train"], "--split: invalid choice: 'train' (choose from"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            main(argv)
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) <= 3


def test_any_task_is_compared_by_its_own_metrics(example_runs: ExampleRuns) -> None:
    comparison = compared(example_runs.regression, example_runs.worse_regression)
    for name, sign in (("mae", 1), ("r2", -1)):
        score = score_of(comparison, f"eval/test/{name}")
        first, second = (value for value in score.values if value is not None)
        assert (score.test, score.best) == ("bootstrap", 0 if sign * first < sign * second else 1)
