import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from benchmarks.concurrency.__main__ import chosen, main
from benchmarks.concurrency.cells import Cell, make_cells
from benchmarks.concurrency.report import BEGIN, END, draw, markdown, print_figures, replace_figures, table
from benchmarks.concurrency.running import CELL

FIELDS = {"name", "value", "unit", "peer", "ratio"}
CELLS = [Cell("one", "", (), "The base."), Cell("two", "one", (), "Pays on GPUs.", processes=2)]


def measured(images: float, time: float) -> dict[str, float]:
    return {"images per second": images, "data wait": 0.0, "peak memory": 700.0, "time to accuracy": time}


ROUNDS = [
    {"one": measured(100, 4), "two": measured(150, math.nan)},
    {"one": measured(200, 3), "two": measured(220, 2.4)},
    {"one": measured(50, 5), "two": measured(100, 2)},
]


def test_a_line_has_medians_and_the_ratio_to_the_peer_in_the_same_round(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures(CELLS, ROUNDS)
    found = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(found) == 8
    assert found["one: images per second"] == {
        "name": "one: images per second", "value": 100.0, "unit": "images/s", "peer": None, "ratio": None,
    }  # fmt: skip
    assert found["two: images per second"]["ratio"] == 1.5  # of 1.5, 1.1 and 2; the ratio of the medians is 1.5, too
    time = found["two: time to accuracy"]
    assert (time["value"], time["ratio"], time["peer"]) == (2.2, 1.875, "one: time to accuracy")
    assert found["two: data wait"]["ratio"] is None  # its peer does not wait


def test_a_page_gets_table_sentence_and_figure(tmp_path: Path) -> None:
    page, figure = tmp_path / "page.md", tmp_path / "figure.png"
    page.write_text(f"story\n{BEGIN}\nold\n{END}\nmore\n")
    replace_figures(page, markdown(CELLS, ROUNDS, "about", figure.name))
    text = page.read_text()
    assert text.startswith("story\n") and text.endswith("\nmore\n") and "old" not in text
    assert "| two | 150 (100 to 220) | 1.50 (1.10 to 2.00) |" in text
    assert "+50% images/s, -40% time. Pays on GPUs." in text
    draw(CELLS, ROUNDS).savefig(figure, dpi=80)
    assert Image.open(figure).width == 720 and figure.stat().st_size < 60_000
    assert table(CELLS, ROUNDS, "title").row_count == 2
    replace_figures(page, markdown(CELLS, ROUNDS, "again", figure.name))
    assert page.read_text().count(BEGIN) == page.read_text().count(END) == 1
    page.write_text("no marks")
    with pytest.raises(ValueError, match="does not contain"):
        replace_figures(page, "")


def test_cells_have_different_options_and_known_peers() -> None:
    cells = make_cells([1, 2, 8])
    names = [cell.name for cell in cells]
    assert len({(cell.options, cell.jobs) for cell in cells}) == len(set(names)) == len(cells) == 17
    assert {cell.peer for cell in cells} - {""} <= set(names)
    assert [cell.name for cell in chosen(["trials in parallel"])] == ["trials one by one", "trials in parallel"]
    with pytest.raises(ValueError, match=r"--only: got 'dpp'; the cells are sequential, "):
        chosen(["dpp"])


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_each_run_has_the_options_that_the_name_of_its_cell_says(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--quick"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert all(set(line) == FIELDS for line in printed)
    speeds = {line["name"].partition(":")[0]: line["value"] for line in printed if line["unit"] == "images/s"}
    assert set(speeds) == {cell.name for cell in chosen(None)} and min(speeds.values()) > 0
    assert (workplace / "mlruns/concurrency.png").exists()

    runs = runs_of_cells(MlflowClient())
    assert set(runs) == set(speeds)
    for name, of_cell in runs.items():
        check_cell(name, of_cell)


def runs_of_cells(client: MlflowClient) -> dict[str, list[Run]]:
    """Return the fit of each cell, or its trials."""
    runs = defaultdict[str, list[Run]](list)
    experiment = client.get_experiment_by_name("concurrency")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    studies = {run.info.run_id: run.data.tags[CELL] for run in found if CELL in run.data.tags}
    for run in found:
        parent = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        if parent != run.info.run_id or "study" not in run.data.tags:
            runs[studies[parent]].append(run)
    return runs


def check_cell(name: str, runs: list[Run]) -> None:
    everything = name.startswith(("all", "asynchronous trials", "asynchronous ddp"))
    for run in runs:
        params = run.data.params
        is_synchronous = {
            "loading": params.get("data.workers.num") == "0",
            "logging": params["tracking.asynchronous"] == "False",
            "checkpoints": params["checkpoint.asynchronous"] == "False",
        }
        for part, waits in is_synchronous.items():
            assert waits != (everything or name == f"asynchronous {part}"), name
        processes = 2 if "2 processes" in name else 1
        strategy = next((word for word in ("ddp", "fsdp") if f"{word}, " in name), "single")
        assert (run.data.tags["strategy"], int(params["data.batch_size"])) == (strategy, 64 // processes), name
        assert run.data.tags["devices"].split()[0] == str(processes), name
        # Batches of an epoch have nearly the same size, so that they are a little smaller than 64.
        assert 3 * 8 * 60 <= run.data.metrics["concurrency/images"] <= 3 * 8 * 64, name
        assert params["trainer.precision"] == ("bf16-mixed" if name == "bf16-mixed" else "32-true"), name
        assert params["model.compile"] == str(name == "compiled"), name
        assert run.info.status == "FINISHED", name
    if "trials" in name:
        first, second = sorted(runs, key=lambda run: int(run.info.start_time))
        overlap = int(second.info.start_time) < int(first.info.end_time)
        assert overlap == ("parallel" in name), name
    else:
        assert len(runs) == 1
