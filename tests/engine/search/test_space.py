"""Every kind of bad search space is refused before any trial, with one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment
from tiny import TINY

from project.engine.cli import config_groups
from project.engine.compat import preloaded_forkserver
from project.sweep import main

LR = "model.optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}"
REFUSED = [
    ("metric: [val/accuracy", "is not valid YAML"),
    ("- 1", "contains a list; expected settings, each with its name"),
    ("metric: val/accuracy\ndirection: maximize\nspace: {}", "expected the settings to vary"),
    ("metric: val/accuracy\ndirection: maximize\nspace: {3: {}}", "mine.yaml: 3 is {}; expected {type: T, ...}"),
    (
        f"metric: val/accuracy\ndirection: maximize\nspaces: {{}}\nspace: {{{LR}}}",
        "has the key 'spaces' (did you mean space?)",
    ),
    (f"metric: val/accuracy\ndirection: maximize\nspaec: {{{LR}}}", "has the key 'spaec' (did you mean space?)"),
    (f"metric: val/accuracy\ndirection: up\nspace: {{{LR}}}", "it is maximize or minimize"),
    (f"metric: [val/accuracy, val/loss]\ndirection: maximize\nspace: {{{LR}}}", "one direction for each metric"),
    ("metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lr: 0.1}", "expected {type: T, ...}"),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lr: {type: double}}",
        "float, int, categorical",
    ),
    ("metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lr: {type: float, low: 1, high: 0.1}}", "low"),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lr: {type: float, low: 1}}",
        "missing 1 required positional argument: 'high'",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lr: {type: int, lo: 1, high: 2}}",
        "unexpected keyword argument 'lo'",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.optimizer.lrr: {type: float, low: 0.1, high: 1}}",
        "did you mean --model.optimizer.lr?",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: float, low: 1.5, high: 8}}",
        "data.batch_size",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.net.dropout: {type: float, low: 0, high: 2}}",
        "dropout in [0, 1)",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: categorical, choices: [8, many]}}",
        "many",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.net.dropout: {type: float, low: 1e-4, high: 1}}",
        "1.0e-4",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {model.net.widths: {type: categorical, choices: [[8, 8]]}}",
        'write "[8, 8]", with quotes',
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {--model.optimizer.lr: {type: float, low: 0.1, high: 1}}",
        "did you mean --model.optimizer.lr?",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: int, low: -4, high: 8}}",
        "mine.yaml with data.batch_size: -4: data.batch_size: got -4",
    ),
    (
        f"metric: val/accuracy\ndirection: maximize\nsampler: CmaEsSampler\nspace: {{{LR}}}",
        "CmaEsSampler needs a package that is not installed",
    ),
    (f"metric: 5\ndirection: maximize\nspace: {{{LR}}}", "one direction for each metric"),
    (f"metric: val/accuracy\ndirection: true\nspace: {{{LR}}}", "one direction for each metric"),
    (f"metric: val/accuracy\ndirection: maximize\nsampler: 5\nspace: {{{LR}}}", "got sampler 5"),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: int, low: 0.5, high: 3}}",
        "batch_size: got 0; it must be 1 or more",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: int, low: 1, high: 3, step: 0.5}}",
        "mine.yaml: data.batch_size: integer modulo by zero",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: categorical, choices: }}",
        "mine.yaml: data.batch_size: 'NoneType' object is not iterable",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: categorical, choices: abc}}",
        "batch_size: got 'a'; expected int",
    ),
    (
        f"metric: [val/accuracy, val/loss]\ndirection: [maximize, minimize]\npruner: MedianPruner\nspace: {{{LR}}}",
        "pruned by one metric alone",
    ),
    (
        f"metric: val/accurcy\ndirection: maximize\nspace: {{{LR}}}",
        "got the metric 'val/accurcy' (did you mean val/accuracy?), which training does not log",
    ),
    (f"metric: val/accuracy\ndirection: maximize\nsampler: {{type: Best}}\nspace: {{{LR}}}", "optuna has"),
    (
        f"metric: val/accuracy\ndirection: maximize\nsampler: {{type: TPESampler, sed: 1}}\nspace: {{{LR}}}",
        "unexpected keyword argument 'sed'",
    ),
    (
        f"metric: val/accuracy\ndirection: maximize\npruner: MedianPrunr\nspace: {{{LR}}}",
        "'MedianPrunr' (did you mean MedianPruner?)",
    ),
    (
        f"metric: val/accuracy\ndirection: maximize\nsampler: GridSampler\nspace: {{{LR}}}",
        "missing 1 required positional argument: 'search_space'",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nsampler: {type: GridSampler, search_space: [1]}\n"
        f"space: {{{LR}}}",
        "GridSampler",
    ),
    (
        f"metric: val/accuracy\ndirection: maximize\nsampler: {{type: GridSampler, search_space: {{a: [1]}}}}\n"
        f"space: {{{LR}}}",
        "the arguments of GridSampler are not valid",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nsampler: {type: TPESampler, n_startup_trials: many}\n"
        f"space: {{{LR}}}",
        "the arguments of TPESampler are not valid",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\npruner: {type: PercentilePruner, percentile: half}\n"
        f"space: {{{LR}}}",
        "PercentilePruner",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {data.batch_size: {type: int, low: 8, high: 5000}}",
        "got 5000, but train has 1,293 images",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {trainer.devices: {type: int, low: 1, high: 2}}",
        "trainer.devices cannot be varied",
    ),
    (
        "metric: val/accuracy\ndirection: maximize\nspace: {devices: {type: int, low: 1, high: 2}}",
        "devices cannot be varied",
    ),
]


# These options take the same paths as others do.
MORE_OPTIONS = [
    (["--search", "optimizer", *TINY, "--storage", "mysql://a/b"], "is not installed (No module named 'MySQLdb')"),
    (["--search", "cnn", "--trainer.fast_dev_run", "2"], "--trainer.fast_dev_run: got 2"),
    (["--search", "cnn", "--trainer.barebones", "true"], "barebones"),
    (["--search", "cnn", "--max_epochs", "0"], "--trainer.max_epochs: got 0"),
    (["--search", "cnn", "--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches: got 0"),
    (["--search", "cnn", "--trainer.enable_checkpointing", "false"], "enable_checkpointing"),
    (["--search", "cnn", "--n_trials", "0"], "--n_trials: got 0"),
]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Run one forkserver for all sweeps of these tests; a sweep leaves a running one as it is."""
    with preloaded_forkserver("math"):
        yield


def test_a_bad_search_space_is_refused_before_any_trial(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_groups, "CONFIGS", _configs(workplace))
    for content, answer in REFUSED:
        (workplace / "configs/search/mine.yaml").write_text(content)
        with pytest.raises(SystemExit, match="2"):
            main(["--search", "mine"])
        error = capsys.readouterr().err
        assert answer in error, content
        assert len(error.splitlines()) == 1, error
    assert not Path("mlruns/optuna.db").exists()


@pytest.mark.parametrize("name", ["mine", "configs/search/mine.yaml"])
def test_an_error_in_the_file_is_found_before_torch_is_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (file := tmp_path / "configs/search/mine.yaml").parent.mkdir(parents=True)
    file.write_text(f"metric: val/accuracy\ndirection: maximize\nsampler: TPESamplr\nspace: {{{LR}}}")
    done = subprocess.run(
        [sys.executable, "-m", "project.sweep", "--search", name], cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "got sampler 'TPESamplr' (did you mean TPESampler?)" in done.stderr


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--max_epochs", "3"], "--search: got nothing; configs/search has cnn"),
        (["--search", "ccn"], "--search: got 'ccn' (did you mean cnn?); configs/search has cnn"),
        (["--search", "mine.yaml"], "--search: cannot read mine.yaml: No such file"),
        (["--search", "cnn", "--metric=val/loss"], "--metric: is a key of the search space; set metric in configs"),
        (["--search", "cnn", "--n_jobs", "0"], "--n_jobs: got 0; it must be a whole number, 1 or more"),
        (["--search", "cnn", "--max_epocs", "3"], "unknown option --max_epocs; did you mean --max_epochs?"),
        (["--search", "cnn", "--n_trial", "3"], "unknown option --n_trial; did you mean --n_trials?"),
        (["--search", "cnn", "--model.optimizer.lr", "0.1"], "--search varies it; leave one of them out"),
        (["--search", "cnn", "--model.net.init_args.dropout", "0.1"], "--search varies it; leave one of them out"),
        (["--search", "cnn", "--n_trials", "many"], "--n_trials: got many; it must be"),
        (["--search", "optimizer", *TINY, "--storage", "nonsense"], "--storage: cannot open nonsense"),
        (["--search", "optimizer", *TINY, "--study", "../mine"], "--study: got '../mine'"),
        (["--search", "cnn", "--resume", "0" * 32], "--resume: a sweep is continued by its own command"),
        (["--search", "cnn", "--trainer.logger", "false"], "--trainer.logger: got False, but each trial"),
        (["--search", "cnn", "--trainer.fast_dev_run", "true"], "--trainer.fast_dev_run: got True"),
        (["--search", "cnn", "--strategy", "ddp", "--trainer.num_nodes", "2"], "--trainer.num_nodes: got 2"),
        (["--search", "cnn", "--max_epochs", "-1"], "--max_epochs: got -1"),
        (["--search", "cnn", "--trainer.limit_val_batches", "0"], "--trainer.limit_val_batches: got 0"),
        *(pytest.param(*row, marks=pytest.mark.faults) for row in MORE_OPTIONS),
    ],
)
def test_bad_options_of_a_sweep(
    options: list[str], answer: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    error = capsys.readouterr().err
    assert answer in error
    assert len(error.splitlines()) <= 3
    assert not Path("mlruns/optuna.db").exists() or "--storage" in options


def _configs(folder: Path) -> Path:
    """Copy the configurations of the project, so that a test can add a search space."""
    import shutil

    return Path(shutil.copytree(config_groups.CONFIGS, folder / "configs"))


@pytest.mark.faults
def test_trials_start_although_the_default_settings_cannot(workplace: Path) -> None:
    file = Path("configs", "data", "digits.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("data: nowhere.Data\n")
    code = "import project.engine.search.preload"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
