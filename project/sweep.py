"""Search hyper-parameters with Optuna: parallel trials, each a child run of the study's MLflow run.

python -m project.sweep --search cnn --n_trials 8 --n_jobs 2
python -m project.sweep --search cnn --n_trials 20 --study digits-cnn --data mnist --max_epochs 3
"""

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import optuna
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from project import groups
from project.cli import FitCLI
from project.errors import answered
from project.search.space import SearchSpace, read_space
from project.search.trial import run_trial
from project.tracking import store

_SHOWN = 5


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 when every trial failed."""
    options, fit_options = _parser().parse_known_args(argv)
    with answered():
        if options.search not in groups.choices("search"):
            have = ", ".join(groups.choices("search"))
            raise ValueError(f"--search: got {options.search!r}; configs/search has {have}")
        space = read_space(groups.CONFIGS / "search" / f"{options.search}.yaml")
        example = [f"--{key}={_any_value(d)}" for key, d in space.distributions.items()]
        job = FitCLI([*fit_options, *example])
        client = store.connect()
        experiment = store.experiment_id(client, job.config.groups.experiment or job.datamodule.name)
        study = optuna.create_study(
            storage=options.storage, study_name=options.study, direction=space.direction, load_if_exists=True
        )
    run = client.create_run(experiment, run_name=f"study {study.study_name}", tags={"study": study.study_name})
    search(study, space, options, fit_options, client, run.info.run_id)
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    client.set_terminated(run.info.run_id, "FINISHED" if done else "FAILED")
    if not done:
        sys.exit(1)
    client.log_metric(run.info.run_id, space.metric, study.best_value)
    print_best(study, space, fit_options)


def search(
    study: optuna.Study,
    space: SearchSpace,
    options: Namespace,
    fit_options: Sequence[str],
    client: MlflowClient,
    parent_id: str,
) -> None:
    """Run trials, `n_jobs` at a time, until the study has `n_trials`."""
    logs = store.HOME / "sweeps" / study.study_name
    logs.mkdir(parents=True, exist_ok=True)
    console = Console()

    def one_trial(_: int) -> None:
        trial = study.ask(space.distributions)
        try:
            log = logs / f"trial-{trial.number}.log"
            value = run_trial(trial, fit_options, space.metric, client, parent_id, log)
        except RuntimeError as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            console.print(f"trial {trial.number} failed: {error}", style="red", markup=False)
        else:
            study.tell(trial, value)
            console.print(f"trial {trial.number}: {space.metric} {value:.4f} with {trial.params}", highlight=False)

    finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    with ThreadPoolExecutor(options.n_jobs) as jobs:
        list(jobs.map(one_trial, range(options.n_trials - len(finished))))


def print_best(study: optuna.Study, space: SearchSpace, fit_options: Sequence[str]) -> None:
    """Print the best trials and the command that trains the best one again."""
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    trials.sort(key=lambda trial: trial.value or 0.0, reverse=space.direction == "maximize")
    table = Table("trial", space.metric, *space.distributions, title=f"study {study.study_name}")
    for trial in trials[:_SHOWN]:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in trial.params.values()]
        table.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    console = Console()
    console.print(table)
    best = [f"--{key}={value}" for key, value in study.best_params.items()]
    console.print("train the best one again:", markup=False)
    console.print(shlex.join(["python", "-m", "project.fit", *fit_options, *best]), soft_wrap=True, highlight=False)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m project.sweep",
        description="Search hyper-parameters; every option of project.fit is handed to each trial.",
        allow_abbrev=False,
    )
    names = groups.choices("search")
    parser.add_argument("--search", required=True, help=f"a file of configs/search/: {', '.join(names)}")
    parser.add_argument("--n_trials", type=int, default=8, help="trials in all, those of an earlier sweep included")
    parser.add_argument("--n_jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--study", help="name of the study; one that exists is continued")
    parser.add_argument("--storage", default=f"sqlite:///{store.HOME}/optuna.db", help="Optuna storage")
    return parser


def _any_value(distribution: optuna.distributions.BaseDistribution) -> object:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return distribution.low


if __name__ == "__main__":
    main(sys.argv[1:])
