"""What is lost when something breaks: the same faults for this project and for a plain Lightning script.

python -m benchmarks.reliability
python -m benchmarks.reliability --only ctrl_c kill_9

Real processes, a real MLflow server, real signals. Prints one JSON object an injection and a table of both columns.
A server that never returns costs the peer minutes of retries; everything together takes most of an hour.
"""

import argparse
import glob
import json
import logging
import math
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
EPOCHS_OF_AN_OUTAGE, FOR_EVER, AWAY_S = 100, 100_000, 30
KILLS, LARGEST_PAUSE_S = 15, 3.0

Outcome = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Side:
    """A column: the module that trains, its spelling of the options, and the command that comes next."""

    module: str
    small: str
    spelling: dict[str, str]
    next_command: str

    def options(self, **settings: object) -> list[str]:
        """A small CNN that logs every step, with these settings in the spelling of this side."""
        words = [self.spelling.get(name, f"--{name} {{}}").format(value) for name, value in settings.items()]
        return " ".join([self.small, *words]).split()


SIDES = {
    "project": Side(
        "project.fit",
        "--model.net.widths [8,8,16,16] --model.net.hidden 64 --data.batch_size 64 --trainer.log_every_n_steps 1",
        {
            "hidden": "--model.net.hidden {}",
            "log_every_n_steps": "--trainer.log_every_n_steps {}",
            "limit_train_batches": "--trainer.limit_train_batches {}",
            "default_root_dir": "--trainer.default_root_dir {}",
            "power": "--model.lr_schedule torch.optim.lr_scheduler.PolynomialLR --model.lr_schedule.power {}",
            "devices": "--strategy ddp --devices {}",
        },
        "project.sync",
    ),
    "lightning": Side(
        "benchmarks.lightning_peer",
        "--widths 8 8 16 16 --hidden 64 --log_every_n_steps 1",
        {},
        "benchmarks.lightning_peer --max_epochs 1",
    ),
}


class Job:
    """A command in a process group of its own, whose terminal is the file `output.txt`."""

    def __init__(self, module: str, options: list[str], folder: Path, uri: str, **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        self.folder, self.start = folder, time.monotonic()
        with (folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=folder, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=clean | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri} | environment,
            )  # fmt: skip

    def wait_for_checkpoint(self) -> None:
        """Wait until `last.ckpt` is there, and a second more."""
        while not checkpoints(self.folder):
            if self.process.poll() is not None:
                raise RuntimeError(f"ended before its first checkpoint: {(self.folder / 'output.txt').read_text()}")
            time.sleep(0.1)
        time.sleep(1)

    def left(self) -> list[int]:
        """What still runs of the process group."""
        running = [process.pid for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE]
        return [pid for pid in running if psutil.pid_exists(pid) and os.getpgid(pid) == self.process.pid]

    def seconds_to_end(self, within_s: float = 60) -> float:
        """Seconds from now until nothing runs; infinite when something still does after `within_s`."""
        start = time.monotonic()
        while self.process.poll() is None or self.left():
            if time.monotonic() - start > within_s:
                return math.inf
            time.sleep(0.05)
        return round(time.monotonic() - start, 1)

    @property
    def exit_code(self) -> int | str:
        """What a shell shows."""
        code = self.process.poll()
        return "none, it hangs" if code is None else code if code >= 0 else 128 - code


@contextmanager
def training(
    side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object
) -> Iterator[Job]:
    """Start a training; whatever happens, nothing of it runs afterwards."""
    job = Job(side.module, side.options(**settings), folder, uri, **environment or {})
    try:
        yield job
    finally:
        for pid in job.left():
            os.kill(pid, signal.SIGKILL)
        job.process.wait()


def train(side: Side, folder: Path, uri: str, environment: dict[str, str] | None = None, **settings: object) -> Job:
    """Train to the end, whatever end that is."""
    with training(side, folder, uri, environment, **settings) as job:
        job.seconds_to_end(600)
    return job


def run_next(side: Side, folder: Path, uri: str) -> None:
    """The command that comes next, to its end: `project.sync` here, another training there."""
    module, *options = side.next_command.split()
    Job(module, options, folder, uri).seconds_to_end(600)


class Server:
    """A real `mlflow server` on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "server").mkdir()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = (
            f"server --host 127.0.0.1 --port {self.port} --workers 1 "
            f"--backend-store-uri sqlite:///{self.folder}/server.db --artifacts-destination {self.folder}/artifacts"
        )
        self.job = Job("mlflow", options.split(), self.folder / "server", "")
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)

    def kill(self) -> None:
        if self.job.process.poll() is None:
            os.killpg(self.job.process.pid, signal.SIGKILL)
            self.job.process.wait()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def store_in(folder: Path) -> str:
    """A SQLite store in a folder."""
    return f"sqlite:///{folder}/mlflow.db"


def runs(uri: str) -> list[Run]:
    """All runs of a store, the newest first."""
    client = MlflowClient(uri)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def losses(uri: str, run_id: str) -> list[Metric]:
    """The training loss of a run, a point a step."""
    return sorted(MlflowClient(uri).get_metric_history(run_id, "train/loss"), key=lambda point: point.step)


def load(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where it cannot be loaded."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state


def checkpoints(folder: Path) -> list[Path]:
    """All `last*.ckpt` in a folder; other than `rglob` this does not mind folders that come and go."""
    return [Path(path) for path in glob.glob(f"{folder}/**/last*.ckpt", recursive=True)]  # noqa: PTH207


def last_checkpoint(folder: Path, run_id: str = "") -> Path:
    """The newest `last*.ckpt` in a folder; of one run, where both sides have its id in the path."""
    return max((path for path in checkpoints(folder) if run_id in str(path)), key=lambda path: path.stat().st_mtime)


@cache
def undisturbed(side: Side) -> tuple[float, int]:
    """Seconds of the training of the outages where there is none, and its steps in the store."""
    folder = Path(tempfile.mkdtemp())
    with Server(folder) as server:
        start = time.monotonic()
        train(side, folder, server.uri, max_epochs=EPOCHS_OF_AN_OUTAGE)
        return time.monotonic() - start, len(losses(server.uri, runs(server.uri)[0].info.run_id))


def outage(side: Side, folder: Path, away_s: float | None) -> Outcome:
    """Kill the server under a training; it is back after `away_s` seconds, or only after the training."""
    seconds, planned = undisturbed(side)
    with Server(folder) as server:
        with training(side, folder, server.uri, max_epochs=EPOCHS_OF_AN_OUTAGE) as job:
            job.wait_for_checkpoint()
            run_id = runs(server.uri)[0].info.run_id
            server.kill()
            if away_s is not None:
                time.sleep(away_s)
                server.start()
            ended = job.seconds_to_end(1500) < math.inf
            longer = time.monotonic() - job.start - seconds
        trained = load(last_checkpoint(folder))
        if away_s is None:
            server.start()
        outcome = {
            "exit code": job.exit_code,
            "seconds longer than without the fault": round(longer) if ended else "still running after 1500",
            "last.ckpt": f"after {trained and trained['global_step']} of {planned} steps",
            **delivered(server.uri, run_id),
        }
        if outcome["status"] == "RUNNING":
            run_next(side, folder, server.uri)
            for key, value in delivered(server.uri, run_id).items():
                outcome[f"{key} after the next command"] = value
        return outcome


def delivered(uri: str, run_id: str) -> Outcome:
    """What a store has of a run."""
    steps = [point.step for point in losses(uri, run_id)]
    return {
        "steps in the store": len(steps),
        "duplicates": len(steps) - len(set(steps)),
        "status": MlflowClient(uri).get_run(run_id).info.status,
    }


def server_gone(side: Side, folder: Path) -> Outcome:
    """The MLflow server dies and comes back only after the training."""
    return outage(side, folder, None)


def server_away(side: Side, folder: Path) -> Outcome:
    """The MLflow server dies and is back after 30 s."""
    return outage(side, folder, AWAY_S)


def stop(side: Side, folder: Path, send: Callable[[Job], None]) -> Outcome:
    """Send a signal to a training that has a checkpoint."""
    uri = store_in(folder)
    with training(side, folder, uri, max_epochs=FOR_EVER) as job:
        job.wait_for_checkpoint()
        send(job)
        seconds, code, left = job.seconds_to_end(), job.exit_code, len(job.left())
    run = runs(uri)[0].info
    outcome = {"exit code": code, "seconds to end": seconds, "processes left": left, "status": run.status}
    if run.status == "RUNNING":
        run_next(side, folder, uri)
        outcome["status after the next command"] = MlflowClient(uri).get_run(run.run_id).info.status
    kept, logged = load(last_checkpoint(folder, run.run_id)), losses(uri, run.run_id)
    outcome["last.ckpt"] = "damaged" if kept is None else f"after {kept['global_step']} steps"
    return outcome | {"steps in the store": len(logged)}


def sigterm(side: Side, folder: Path) -> Outcome:
    """SIGTERM to the training process."""
    return stop(side, folder, lambda job: job.process.terminate())


def ctrl_c(side: Side, folder: Path) -> Outcome:
    """SIGINT to the process group, as a terminal sends it."""
    return stop(side, folder, lambda job: os.killpg(job.process.pid, signal.SIGINT))


def kill_9(side: Side, folder: Path) -> Outcome:
    """SIGKILL to the training process."""
    return stop(side, folder, lambda job: job.process.kill())


def kill_rank(side: Side, folder: Path) -> Outcome:
    """DDP on two processes; SIGKILL to the second."""

    def send(job: Job) -> None:
        children = psutil.Process(job.process.pid).children()
        next(child for child in children if side.module.rpartition(".")[2] in " ".join(child.cmdline())).kill()

    uri = store_in(folder)
    with training(side, folder, uri, max_epochs=FOR_EVER, devices=2) as job:
        job.wait_for_checkpoint()
        send(job)
        outcome = {
            "seconds to end": job.seconds_to_end(),
            "exit code": job.exit_code,
            "processes left": len(job.left()),
        }
    return outcome | {"status": runs(uri)[0].info.status, "last.ckpt loads": load(last_checkpoint(folder)) is not None}


def _train_here(module: str, options: list[str], folder: Path, scratch: Path) -> None:
    os.chdir(folder)
    os.environ |= {"MLFLOW_TRACKING_URI": store_in(folder), "TMPDIR": str(scratch)}
    tempfile.tempdir = None
    terminal = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    sys.modules[module].main(options)


def kill_during_saves(side: Side, folder: Path) -> Outcome:
    """SIGKILL at 15 random moments of a training that does little but save; $TMPDIR on another filesystem."""
    seed = random.randrange(10**6)
    moments, processes = random.Random(seed), get_context("forkserver")
    processes.set_forkserver_preload(["project.fit", "benchmarks.lightning_peer"])
    options = side.options(max_epochs=FOR_EVER, hidden=100_000, limit_train_batches=1)
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").exists() else None))
    last_loads = any_loads = litter = 0
    for _ in range(KILLS):
        training = processes.Process(target=_train_here, args=[side.module, options, folder, scratch])
        training.start()
        assert training.pid is not None
        while training.is_alive() and not checkpoints(folder):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, LARGEST_PAUSE_S))
        training.kill()
        training.join()
        kept = last_checkpoint(folder).parent
        loads = {path.name: load(path) is not None for path in kept.glob("*.ckpt")}
        last_loads += loads["last.ckpt"]
        any_loads += any(loads.values())
        litter += len([path for path in kept.iterdir() if path.name not in loads]) + len(list(scratch.iterdir()))
        size = last_checkpoint(folder).stat().st_size
        shutil.rmtree(kept)
        shutil.rmtree(scratch)
        scratch.mkdir()
    scratch.rmdir()
    return {
        "seed": seed,
        "MB a checkpoint": size // 10**6,
        "last.ckpt loads": f"{last_loads} of {KILLS}",
        "some checkpoint loads": f"{any_loads} of {KILLS}",
        "unfinished files left": litter,
    }


def damaged_checkpoint(side: Side, folder: Path) -> Outcome:
    """`last.ckpt` truncated, or one of its bits flipped; then a resume."""
    outcome: Outcome = {}
    for damage in ("truncated", "one bit flipped"):
        place = folder / damage.replace(" ", "_")
        place.mkdir()
        uri = store_in(place)
        train(side, place, uri, max_epochs=3)
        path = last_checkpoint(place)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 64
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
        job = train(side, place, uri, resume=runs(uri)[0].info.run_id, max_epochs=6)
        output = (place / "output.txt").read_text()
        goes_on = "goes on, and names the file" if "damaged or with code" in output else "goes on, nothing said"
        outcome[damage] = f"exit code {job.exit_code}: {output.splitlines()[-1][:120] if job.exit_code else goes_on}"
    return outcome


def resume(side: Side, folder: Path) -> Outcome:
    """Three epochs, then three more in the same run."""
    uri = store_in(folder)
    train(side, folder, uri, max_epochs=3)
    run_id = runs(uri)[0].info.run_id
    first, seen = losses(uri, run_id), set()
    with training(side, folder, uri, resume=run_id, max_epochs=60) as job:
        while job.process.poll() is None:
            if len(losses(uri, run_id)) > len(first):
                seen.add(MlflowClient(uri).get_run(run_id).info.status)
            time.sleep(0.2)
    steps = [point.step for point in losses(uri, run_id)]
    return {
        "exit code": job.exit_code,
        "runs": len(runs(uri)),
        "status while it trains again": ", ".join(sorted(seen)),
        "status at the end": runs(uri)[0].info.status,
        "curve": "each step once"
        if steps == list(range(len(steps)))
        else f"{len(steps)} points, {len(set(steps))} steps",
    }


def nan_loss(side: Side, folder: Path) -> Outcome:
    """A learning rate that grows until the loss is not finite."""
    uri = store_in(folder)
    job = train(side, folder, uri, max_epochs=20, power=-13, log_every_n_steps=10)
    run = runs(uri)[0].info
    points, kept = losses(uri, run.run_id), load(last_checkpoint(folder))
    assert kept is not None
    broken = [point.step for point in points if not math.isfinite(point.value) or abs(point.value) > 1e300]
    return {
        "exit code": job.exit_code,
        "status": run.status,
        "first logged step without a finite loss": broken[0] if broken else "none",
        "steps logged": f"up to {points[-1].step} in 20 epochs",
        "last.ckpt is finite": all(
            bool(tensor.isfinite().all()) for tensor in kept["state_dict"].values() if tensor.is_floating_point()
        ),
    }


def secret_settings(side: Side, folder: Path) -> Outcome:
    """A password in a URI and a token of the environment, both in a setting and the former in the store's address."""
    with Server(folder) as server:
        password, token = token_hex(), token_hex()
        address = f"//me:{password}@"
        job = train(
            side, folder, server.uri.replace("//", address), {"SERVICE_TOKEN": token},
            max_epochs=1, default_root_dir=f"memory:{address}host/{token}",
        )  # fmt: skip
        run = runs(server.uri)[0]
    places = {f"params.{key}": value for key, value in run.data.params.items()}
    places |= {f"tags.{key}": value for key, value in run.data.tags.items()}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "server.db"]
    places |= {str(path.relative_to(folder)): path.read_bytes().decode(errors="replace") for path in files}
    return {"exit code": job.exit_code} | {
        name: ", ".join(place for place, text in places.items() if secret in text) or "nowhere"
        for name, secret in (("password found in", password), ("token found in", token))
    }


INJECTIONS: dict[str, Callable[[Side, Path], Outcome]] = {
    function.__name__: function
    for function in (
        sigterm, ctrl_c, kill_9, kill_rank, resume, nan_loss, secret_settings, damaged_checkpoint, kill_during_saves,
        server_away, server_gone,
    )
}  # fmt: skip


def words(outcome: Outcome) -> str:
    """An outcome, a figure a line."""
    return "\n".join(f"{key}: {value}" for key, value in outcome.items())


def main() -> None:
    """Run the injections, each in an empty folder for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=INJECTIONS, default=list(INJECTIONS), metavar="NAME")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, also by children
    table = Table("fault", *SIDES, title="what each fault costs", show_lines=True)
    for name in parser.parse_args().only:
        outcomes = {}
        for label, side in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                outcomes[label] = INJECTIONS[name](side, Path(folder))
        print(json.dumps({"injection": name} | outcomes), flush=True)
        table.add_row(f"{name}\n{INJECTIONS[name].__doc__}", *(words(outcome) for outcome in outcomes.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
