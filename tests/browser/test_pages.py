"""The pages of MLflow's UI as a person sees them, in headless Chromium."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Page, chromium
from commands import Command
from conftest import SMALL_NET, Fit, clean_environment, copy_store
from mlflow import MlflowClient
from mlflow.entities import Run

from project.engine.tracking.leaderboard import comparison_page
from project.engine.tracking.registered import register

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed (Debian: apt install chromium)"),
    pytest.mark.timeout(600),  # The first test waits for the sweep and the server.
]

SWEEP = ["--search", "cnn", "--n_trials", "2", "--max_epochs", "2", *SMALL_NET, "--trainer.limit_train_batches=4",
         "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=2"]  # fmt: skip

REGISTERED = "reader-of-digits"


@dataclass
class Pages:
    """The UI of a store with a sweep of two trials.

    Attributes:
        address: What `project.ui` printed.
        parent: The run of the study.
        trials: The runs of the trials.
        page: A tab of the browser.
    """

    address: str
    parent: Run
    trials: list[Run]
    page: Page

    def open(self, path: str) -> Page:
        """Open a page of the experiment."""
        server, _, rest = self.address.partition("/#")
        self.page.open(f"{server}/#{rest.partition('/runs')[0]}{path}?workflowType=machine_learning")
        return self.page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder: Path = tmp_path_factory.mktemp("pages")
    copy_store(folder)
    command = Command("project.sweep", *SWEEP, folder=folder, environment=clean_environment())
    output, _ = command.communicate()
    assert command.wait() == 0, output
    runs = Fit(folder, 0, "").runs
    trials = [run for run in runs if "trial" in run.data.tags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        register(MlflowClient(), trials[0], REGISTERED)
    (parent,) = [run for run in runs if run not in trials]
    server = subprocess.Popen(
        [sys.executable, "-m", "project.ui", "--port", "0"], cwd=folder, env=clean_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with chromium() as page:
            yield Pages(address, parent, trials, page)
    finally:
        server.terminate()
        server.wait()


def model_of(run: Run) -> str:
    assert run.outputs is not None
    return str(run.outputs.model_outputs[0].model_id)


def name_of(run: Run) -> str:
    return str(run.info.run_name).rstrip("…")


def test_the_printed_address_shows_the_leaderboard(pages: Pages) -> None:
    pages.page.open(pages.address)
    shown = pages.page.wait_for(
        "Sort: best/val/accuracy", "test/accuracy", *(name_of(run)[:12] for run in pages.trials)
    )
    assert "model.optimizer.lr" in shown
    for run in pages.trials:
        assert f"{run.data.metrics['best/val/accuracy']:.4f}"[:5] in shown


def test_a_run_has_a_description_and_curves_first(pages: Pages) -> None:
    (run, *_) = pages.trials
    assert pages.open(f"/runs/{run.info.run_id}").wait_for(name_of(run), "Description", "trained on digits")
    page = pages.open(f"/runs/{run.info.run_id}/model-metrics")
    first = "document.querySelector('.js-plotly-plot')"
    # The path of a curve has at least two points: M x,y L x,y.
    assert "L" in page.wait_until(f"{first}?.querySelector('.scatterlayer path.js-line')?.getAttribute('d')")


def test_the_comparison_of_two_runs_begins_with_the_monitored_metric(pages: Pages) -> None:
    server = pages.address.partition("/#")[0]
    pages.page.open(server + comparison_page(pages.trials))
    shown = pages.page.wait_for("Comparing 2 Runs", "Run Name:", *map(name_of, pages.trials))
    chosen = shown.partition("Metrics:")[2]
    assert chosen.split()[0] == "best/val/accuracy"
    assert "model.optimizer.lr" in shown


def test_a_study_shows_its_trials_and_interactive_plots(pages: Pages) -> None:
    run_id = pages.parent.info.run_id
    assert pages.open(f"/runs/{run_id}").wait_for(name_of(pages.parent), "Child runs", *map(name_of, pages.trials))
    page = pages.open(f"/runs/{run_id}/artifacts/study/plots.html")
    assert page.wait_until("document.querySelectorAll('.js-plotly-plot .main-svg').length", in_frame=True)


def test_a_model_shows_its_description_and_scores(pages: Pages) -> None:
    page = pages.open(f"/models/{model_of(pages.trials[0])}")
    assert page.wait_for("digits-cnn", "Description", "trained on digits", "best/val/accuracy", "Source run")


def test_a_registered_model_shows_the_description_of_its_model(pages: Pages) -> None:
    pages.page.open(f"{pages.address.partition('/#')[0]}/#/models/{REGISTERED}")
    assert pages.page.wait_for(REGISTERED, "Description", "trained on digits", "Version 1")
