from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import pickle
import random
import re
import shutil
import socket
import sqlite3
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import Command, fork_server, free_port
from filelock import FileLock

if TYPE_CHECKING:  # The process that distributes the tests imports only this file, and no library that takes seconds.
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from runs import ExampleRuns, Runs

ROOT = Path(__file__).parent.parent
SMALL_NET = ["--model.net.widths=[8,8,8,8]", "--model.net.hidden=16"]  # For fits whose score is not tested.
MOST_WORKERS = 4  # Each worker needs a gigabyte of memory.


def pytest_addoption(parser: pytest.Parser) -> None:
    seed = random.randrange(10**6)
    parser.addoption(
        "--seed", type=int, default=seed, help="seed of the random moments in tests; a failed test prints it"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Distribute all tests over pytest-xdist workers, most files whole; selected tests run in this process.

    There is one worker more than cores, because a fifth of the time of tests is waiting, mostly for other processes.
    """
    given, is_worker = config.option, "PYTEST_XDIST_WORKER" in os.environ
    is_all = config.args_source == pytest.Config.ArgsSource.TESTPATHS and not given.keyword
    if is_all and not (is_worker or given.usepdb) and getattr(given, "numprocesses", 0) is None:
        given.numprocesses = min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)
        given.dist = "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    gc.disable()  # Until all is imported: modules are not garbage, and collections take a fifth of the imports' time.
    if "PYTEST_XDIST_WORKER" in os.environ:  # A worker runs commands, and imports the libraries for its tests.
        atexit.register(_exit_worker, os.getpid())  # It runs after the handlers of the libraries.
        fork_server()
        logging.getLogger().setLevel(logging.WARNING)  # The import of mlflow.pytorch sets it to ERROR.


def _exit_worker(pid: int) -> None:
    """Exit without destroying the libraries' objects, which takes ten seconds, unless this is a forked process."""
    if os.getpid() == pid:
        os._exit(0)


def pytest_collection_finish() -> None:
    """Leave the libraries' objects, almost a million, out of each garbage collection: a third of a small fit's time."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter collect these objects when it exits; libraries report those that it does not."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        gc.unfreeze()


@dataclass
class Fit:
    """A finished command in a folder, and the runs in that folder."""

    folder: Path
    code: int
    output: str

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")

    @property
    def runs(self) -> list[Run]:
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(self.client.search_runs(experiments))

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    def artifacts(self, path: str | None = None) -> set[str]:
        found: set[str] = set()
        for entry in self.client.list_artifacts(self.run.info.run_id, path):
            found |= self.artifacts(entry.path) if entry.is_dir else {entry.path}
        return found

    def text(self, artifact: str) -> str:
        return Path(self.client.download_artifacts(self.run.info.run_id, artifact)).read_text()


def count_runs(folder: Path) -> int:
    """Count the runs in a folder's store; MLflow's client needs as long to open it as a command to refuse an option."""
    with closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as store:
        return int(store.execute("SELECT count(*) FROM runs").fetchone()[0])


def clean_environment() -> dict[str, str]:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and k != "PYTHONDONTWRITEBYTECODE"
    }
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120"}


def fit(folder: Path, *options: str, environment: Mapping[str, str] = {}) -> Fit:
    """Run `project.fit`. Copy an empty store into a folder without one, because MLflow needs seconds to make it."""
    copy_store(folder)
    command = Command("project.fit", *options, folder=folder, environment=clean_environment() | environment)
    output, _ = command.communicate()
    return Fit(folder, command.wait(), without_colours(output))


def run_ranks(module: str, *argv: str, folder: Path, environment: Mapping[str, str] = {}) -> str:
    """Run a command as two processes of torchrun; both must exit with 0. Return their output."""
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "pair",
           "OMP_NUM_THREADS": "1"}  # fmt: skip
    shared = clean_environment() | job | environment
    ranks = [
        Command(module, *argv, folder=folder, environment=shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return "".join(outputs)


def without_colours(output: str) -> str:
    """Return the output of a terminal without colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process or one of its children listens, as `ss -ltn` shows them."""
    import psutil

    process = psutil.Process(pid)
    sockets = []
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # The process exited meanwhile.
            sockets += one.net_connections("tcp")
    return {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's right to write everywhere, if the tests run as root; folders of root are then read-only."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def copy_of_the_project(folder: Path) -> Path:
    """Copy the code and its configurations to another folder, in which a test may add files."""
    for name in ("project", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Random moments, different for each test; `--seed` repeats the moments of an earlier run."""
    seed = request.config.option.seed
    print(f"--seed {seed}")  # pytest shows this if the test fails.
    return random.Random(f"{seed} {request.node.nodeid}")


def first_command() -> list[str]:
    """Return the words of the first command of the README."""
    command = re.search(r"^pip install uv && uv run (.*?) *#", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command is not None
    return command[1].split()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> tuple[Path, Any]:
    """Make a folder once for all workers.

    Args:
        factory: pytest's folders.
        name: Name of the folder.
        make: Fills the empty folder, and returns what is to be kept as JSON.

    Returns:
        The folder, which tests must not change, and what `make` returned.
    """
    shared = factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / name
    done = folder.with_suffix(".json")
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # It is unfinished if another test failed to make it.
            folder.mkdir()
            done.write_text(json.dumps(make(folder)))
    return folder, json.loads(done.read_text())


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """The first command of the README with two of its ten epochs, and a smaller net that learns faster."""

    def train(folder: Path) -> tuple[int, str]:
        smaller = ["--max_epochs=2", "--model.net.widths=[16,16,32,64]", "--model.optimizer.lr=0.005"]
        fitted = fit(folder, *first_command()[3:], *smaller)
        return fitted.code, fitted.output

    folder, (code, output) = made_once(tmp_path_factory, "main_job", train)
    return Fit(folder, code, output)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture(scope="session")
def empty_store() -> Path:
    """A store without runs."""
    return new_store()


@cache
def new_store() -> Path:
    """Make a store without runs, once for each version of MLflow.

    MLflow imports its 68 migrations whenever it opens a store, to find the newest one; here it finds it once.
    """
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)

    path = ROOT / ".pytest_cache" / f"mlflow-{version('mlflow')}" / "mlflow.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            unfinished.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{unfinished}").search_experiments()
            unfinished.rename(path)
    return path


def copy_store(folder: Path) -> None:
    """Copy an empty store into a folder that has no store."""
    if not (folder / "mlruns").exists():
        (folder / "mlruns").mkdir()
        shutil.copy(new_store(), folder / "mlruns")


@contextmanager
def at(folder: Path) -> Iterator[None]:
    """Make a folder the current one, with its own store, which is an empty one if the folder has none."""
    copy_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        yield


@contextmanager
def at_copy(original: Path, folder: Path) -> Iterator[None]:
    """Copy a folder with a store into an empty folder, and make this the current one."""
    from mlflow.tracking._tracking_service import utils

    from project.engine.tracking.store import follow_folder

    shutil.copytree(original, folder, dirs_exist_ok=True)
    utils._artifact_repos_cache.clear()  # It maps the runs to the folders of the original, or of an earlier copy.
    with at(folder):
        follow_folder()
        yield


@pytest.fixture
def other_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder, which receives the caches of the images that a test uses."""
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """A current folder with its own empty store, for commands that are called in this process."""
    with at(tmp_path):
        yield tmp_path


@pytest.fixture
def datasets(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images of each dataset under `data/`, in the layouts that torchvision downloads."""
    import numpy as np
    from torchvision.datasets import CIFAR10

    random = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(workplace / "data" / name / "raw", random)
    cifar = workplace / "data" / "cifar-10-batches-py"
    cifar.mkdir()
    batch = {"data": random.integers(0, 256, (40, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(40)]}
    for entry in ("data_batch_1", "test_batch"):
        (cifar / entry).write_bytes(pickle.dumps(batch))
    (cifar / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # These files are not the published ones, so the published checksums do not apply.
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    write_folder(workplace / "data")


def write_mnist(folder: Path, random: np.random.Generator, count: int = 40) -> None:
    """Write MNIST's four files with `count` images each."""
    import numpy as np

    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())


def write_folder(root: Path, count: int = 12) -> None:
    """Write an image folder of two classes, red and blue, in JPEG and PNG."""
    from PIL import Image

    for split in ("train", "test"):
        for label, colour in (("blue", (20, 20, 200)), ("red", (200, 20, 20))):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                suffix = "jpg" if index % 2 else "png"
                Image.new("RGB", (48, 40), colour).save(root / split / label / f"{index}.{suffix}")


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Runs]:
    """Runs in the store of the current folder, for commands that are called in this process."""
    from runs import Runs, train

    folder, ids = made_once(tmp_path_factory, "runs", train)
    with at_copy(folder, tmp_path):
        yield Runs(*ids)


@pytest.fixture
def example_runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[ExampleRuns]:
    """Runs of the examples in the store of the current folder."""
    from runs import ExampleRuns, train_examples

    folder, ids = made_once(tmp_path_factory, "examples", train_examples)
    with at_copy(folder, tmp_path):
        yield ExampleRuns(*ids)
