"""Benchmark of faults: each is injected into a training of this project and into a plain Lightning script.

python -m benchmarks.reliability
python -m benchmarks.reliability --only ctrl_c kill_9
python -m benchmarks.reliability --quick

The processes, the MLflow server and the signals are real. Prints the lines of benchmarks/lines.py for each number, and
a table with one column per side. All faults take most of an hour, because Lightning retries for minutes if the server
does not return.
"""

import logging
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from benchmarks.jobs import (
    SIDES,
    Job,
    Server,
    Side,
    checkpoints,
    last_checkpoint,
    load_checkpoint,
    run_next,
    runs,
    store_in,
    train,
    train_losses,
    training,
)
from benchmarks.lines import make_parser, print_line

OUTAGE_EPOCHS, ENDLESS_EPOCHS, DOWNTIME_S = 100, 100_000, 30
KILLS, LARGEST_PAUSE_S = 15, 3.0
NUMBERS = {
    "seconds in all": ("s", False),
    "seconds to end": ("s", False),
    "seconds longer than without the fault": ("s", False),
    "steps in the store": ("steps", True),
}
"""The numbers of an outcome that get a line, with their unit and whether more is better."""

Outcome = dict[str, Any]


@cache
def undisturbed(side: Side) -> tuple[float, int]:
    """Measure the seconds of a training without an outage, and count its steps in the store."""
    folder = Path(tempfile.mkdtemp())
    with Server(folder) as server:
        start = time.monotonic()
        train(side, folder, server.uri, max_epochs=OUTAGE_EPOCHS)
        return time.monotonic() - start, len(train_losses(server.uri, runs(server.uri)[0].info.run_id))


def outage(side: Side, folder: Path, downtime_s: float | None) -> Outcome:
    """Kill the server during a training; restart it after `downtime_s` seconds, or, if None, after the training."""
    seconds, planned = undisturbed(side)
    with Server(folder) as server:
        with training(side, folder, server.uri, max_epochs=OUTAGE_EPOCHS) as job:
            job.wait_for_checkpoint()
            run_id = runs(server.uri)[0].info.run_id
            server.kill()
            if downtime_s is not None:
                time.sleep(downtime_s)
                server.start()
            ended = job.seconds_to_end(1500) < math.inf
            extra_s = time.monotonic() - job.start - seconds
        trained = load_checkpoint(last_checkpoint(folder))
        if downtime_s is None:
            server.start()
        outcome = {
            "exit code": job.exit_code,
            "seconds longer than without the fault": round(extra_s) if ended else "still running after 1500",
            "last.ckpt": f"after {trained and trained['global_step']} of {planned} steps",
            **delivered(server.uri, run_id),
        }
        if outcome["status"] == "RUNNING":
            run_next(side, folder, server.uri)
            for key, value in delivered(server.uri, run_id).items():
                outcome[f"{key} after the next command"] = value
        return outcome


def delivered(uri: str, run_id: str) -> Outcome:
    """Read the steps and the status of a run from its store."""
    steps = [point.step for point in train_losses(uri, run_id)]
    return {
        "steps in the store": len(steps),
        "duplicates": len(steps) - len(set(steps)),
        "status": MlflowClient(uri).get_run(run_id).info.status,
    }


def server_lost(side: Side, folder: Path) -> Outcome:
    """Kill the MLflow server, and restart it after the training."""
    return outage(side, folder, None)


def server_down(side: Side, folder: Path) -> Outcome:
    """Kill the MLflow server, and restart it after 30 s."""
    return outage(side, folder, DOWNTIME_S)


def stop(side: Side, folder: Path, send: Callable[[Job], None]) -> Outcome:
    """Call `send`, which sends a signal, when a training has its first checkpoint."""
    uri = store_in(folder)
    with training(side, folder, uri, max_epochs=ENDLESS_EPOCHS) as job:
        job.wait_for_checkpoint()
        send(job)
        seconds, code, running = job.seconds_to_end(), job.exit_code, len(job.running_pids())
    run = runs(uri)[0].info
    outcome = {"exit code": code, "seconds to end": seconds, "processes left": running, "status": run.status}
    if run.status == "RUNNING":
        run_next(side, folder, uri)
        outcome["status after the next command"] = MlflowClient(uri).get_run(run.run_id).info.status
    kept, logged = load_checkpoint(last_checkpoint(folder, run.run_id)), train_losses(uri, run.run_id)
    outcome["last.ckpt"] = "damaged" if kept is None else f"after {kept['global_step']} steps"
    return outcome | {"steps in the store": len(logged)}


def sigterm(side: Side, folder: Path) -> Outcome:
    """Send SIGTERM to the training process."""
    return stop(side, folder, lambda job: job.process.terminate())


def ctrl_c(side: Side, folder: Path) -> Outcome:
    """Send SIGINT to the process group, as a terminal does."""
    return stop(side, folder, lambda job: os.killpg(job.process.pid, signal.SIGINT))


def kill_9(side: Side, folder: Path) -> Outcome:
    """Send SIGKILL to the training process."""
    return stop(side, folder, lambda job: job.process.kill())


def kill_rank(side: Side, folder: Path) -> Outcome:
    """Train with DDP on two processes, and send SIGKILL to the second."""

    def send(job: Job) -> None:
        children = psutil.Process(job.process.pid).children()
        next(child for child in children if side.module.rpartition(".")[2] in " ".join(child.cmdline())).kill()

    uri = store_in(folder)
    with training(side, folder, uri, max_epochs=ENDLESS_EPOCHS, devices=2) as job:
        job.wait_for_checkpoint()
        send(job)
        outcome = {
            "seconds to end": job.seconds_to_end(),
            "exit code": job.exit_code,
            "processes left": len(job.running_pids()),
        }
    return outcome | {
        "status": runs(uri)[0].info.status,
        "last.ckpt loads": load_checkpoint(last_checkpoint(folder)) is not None,
    }


def _train_here(module: str, options: list[str], folder: Path, scratch: Path) -> None:
    os.chdir(folder)
    os.environ |= {"MLFLOW_TRACKING_URI": store_in(folder), "TMPDIR": str(scratch)}
    tempfile.tempdir = None
    terminal = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    sys.modules[module].main(options)


def kill_during_saves(side: Side, folder: Path) -> Outcome:
    """Kill a training at 15 random moments; it saves most of the time, and $TMPDIR is on another filesystem."""
    seed = random.randrange(10**6)
    moments, processes = random.Random(seed), get_context("forkserver")
    processes.set_forkserver_preload(["project.fit", "benchmarks.lightning_peer"])
    options = side.options(max_epochs=ENDLESS_EPOCHS, hidden=100_000, limit_train_batches=1)
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").exists() else None))
    last_loads = any_loads = unfinished = 0
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
        loads = {path.name: load_checkpoint(path) is not None for path in kept.glob("*.ckpt")}
        last_loads += loads["last.ckpt"]
        any_loads += any(loads.values())
        unfinished += len([path for path in kept.iterdir() if path.name not in loads]) + len(list(scratch.iterdir()))
        size = last_checkpoint(folder).stat().st_size
        shutil.rmtree(kept)
        shutil.rmtree(scratch)
        scratch.mkdir()
    scratch.rmdir()
    return {
        "seed": seed,
        "MB per checkpoint": size // 10**6,
        "last.ckpt loads": f"{last_loads} of {KILLS}",
        "some checkpoint loads": f"{any_loads} of {KILLS}",
        "unfinished files left": unfinished,
    }


def damaged_checkpoint(side: Side, folder: Path) -> Outcome:
    """Truncate `last.ckpt`, or flip one of its bits; then resume."""
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
        resumed = "resumes, and names the file" if "damaged or with code" in output else "resumes without a message"
        outcome[damage] = f"exit code {job.exit_code}: {output.splitlines()[-1][:120] if job.exit_code else resumed}"
    return outcome


def resume(side: Side, folder: Path) -> Outcome:
    """Train three epochs, then resume the run and train to epoch 60."""
    uri = store_in(folder)
    train(side, folder, uri, max_epochs=3)
    run_id = runs(uri)[0].info.run_id
    first, seen = train_losses(uri, run_id), set()
    with training(side, folder, uri, resume=run_id, max_epochs=60) as job:
        while job.process.poll() is None:
            if len(train_losses(uri, run_id)) > len(first):
                seen.add(MlflowClient(uri).get_run(run_id).info.status)
            time.sleep(0.2)
    steps = [point.step for point in train_losses(uri, run_id)]
    return {
        "exit code": job.exit_code,
        "runs": len(runs(uri)),
        "status after the resume": ", ".join(sorted(seen)),
        "status at the end": runs(uri)[0].info.status,
        "curve": "each step once"
        if steps == list(range(len(steps)))
        else f"{len(steps)} points, {len(set(steps))} steps",
    }


def nan_loss(side: Side, folder: Path) -> Outcome:
    """Train with a learning rate that grows until the loss is not finite."""
    uri = store_in(folder)
    job = train(side, folder, uri, max_epochs=20, power=-13, log_every_n_steps=10)
    run = runs(uri)[0].info
    points, kept = train_losses(uri, run.run_id), load_checkpoint(last_checkpoint(folder))
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
    """Train with a password in the store's address, and with it and a token of the environment in a setting."""
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
        server_down, server_lost,
    )
}  # fmt: skip


def as_lines(outcome: Outcome) -> str:
    """Format an outcome, one value per line."""
    return "\n".join(f"{key}: {value}" for key, value in outcome.items())


def print_numbers(fault: str, outcomes: Mapping[str, Outcome]) -> None:
    """Print a line for each number of both sides' outcomes."""
    for label, outcome in outcomes.items():
        peer = "lightning" if label != "lightning" else None
        for number, (unit, more_is_better) in NUMBERS.items():
            if isinstance(value := outcome.get(number), int | float):
                theirs = outcomes[peer].get(number) if peer else None
                peers = [theirs] if isinstance(theirs, int | float) else []
                print_line(
                    f"{fault}: {label}: {number}", [value], unit,
                    f"{fault}: {peer}: {number}" if peers else None, peers, more_is_better=more_is_better,
                )  # fmt: skip


def inject(name: str) -> dict[str, Outcome]:
    """Inject a fault on both sides, each in an empty folder."""
    outcomes = {}
    for label, side in SIDES.items():
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome = INJECTIONS[name](side, Path(folder))
        outcomes[label] = outcome | {"seconds in all": round(time.monotonic() - start)}
    return outcomes


def main(argv: Sequence[str]) -> None:
    """Inject the chosen faults, and print the lines and the table."""
    parser = make_parser("benchmarks.reliability", __doc__, None, "only sigterm")
    parser.add_argument("--only", nargs="+", choices=INJECTIONS, metavar="NAME")
    args = parser.parse_args(argv)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # An exception lets `training` kill its processes.
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # A shell's background jobs, and their children, ignore it.
    table = Table("fault", *SIDES, title="outcome of each fault", show_lines=True)
    for name in args.only or (["sigterm"] if args.quick else INJECTIONS):
        outcomes = inject(name)
        print_numbers(name, outcomes)
        table.add_row(f"{name}\n{INJECTIONS[name].__doc__}", *(as_lines(outcome) for outcome in outcomes.values()))
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
