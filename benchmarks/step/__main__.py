"""Benchmark of a training step: a hand-written loop, Lightning's Trainer alone, and `project.fit` with all its parts.

python -m benchmarks.step
python -m benchmarks.step --net default resnet18 --accelerator gpu
python -m benchmarks.step --processes 2
python -m benchmarks.step --quick

All train the same net on the same batches of 64 images with AdamW, the same schedule, cross-entropy and accuracy, and
read the loss on every tenth step. `hand-written` and Lightning have torch's default settings. `fit` has a fused
optimizer and, for the CNNs, images in the NHWC format, as `hand-written, settings of fit` has. `fit` also has its
logger, its progress bar and its checkpoints; `fit, no NAME` lacks one part, and `fit, two metrics` logs two metrics on
every step. In each round, new processes take turns of a third of a second. Prints the lines of benchmarks/lines.py and
tables.

With `--processes 2`, each process has one core, one thread and batches of 64. DDP and FSDP2 by hand take turns with
`fit --strategy ddp` and `fsdp`, and with one process on one core: with the same milliseconds per step, two processes
are twice as fast. All loops have the settings of `fit`. Also prints the largest memory of each process.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.lines import make_parser, print_line, report, rounds_of
from benchmarks.slices import Candidate, Rank, ms_per_step
from benchmarks.step.trainings import NETS, TwoMetrics, hand_written, hand_written_group, lightning, ours

SLICES_PER_ROUND, WARM_UP_STEPS = 15, 100
QUICK_SLICES, QUICK_WARM_UP_STEPS = 2, 10
BY_HAND = "hand-written"

PARTS: dict[str, list[str]] = {
    "logger": ["--trainer.logger=false"],
    "progress bar": ["--trainer.enable_progress_bar=false"],
}
TWO_METRICS = [f"--model.class_path={TwoMetrics.__module__}.{TwoMetrics.__qualname__}", "--trainer.log_every_n_steps=1"]

Make = Callable[[], Candidate]


def candidates(net: str, accelerator: str, *, parts: bool) -> dict[str, Make]:
    """Return functions that start the trainings with one process, by their name in the table."""

    def start(train: Callable[..., None], *arguments: object) -> Make:
        return lambda: Candidate(train, net, *arguments)

    def start_fit(options: Sequence[str]) -> Make:
        return lambda: Candidate(ours, net, accelerator, tempfile.mkdtemp(), options)

    device = "cpu" if accelerator == "cpu" else "cuda"
    made = {
        BY_HAND: start(hand_written, device),
        f"{BY_HAND}, settings of fit": start(hand_written, device, True),
        "Lightning": start(lightning, accelerator, False),
        "Lightning barebones": start(lightning, accelerator, True),
        "fit": start_fit([]),
        "fit, two metrics": start_fit(TWO_METRICS),
    }
    if parts:
        made |= {f"fit, no {name}": start_fit(options) for name, options in PARTS.items()}
        made["fit, none of these"] = start_fit([option for one in PARTS.values() for option in one])
    return made


def group(processes: int) -> list[Rank]:
    """Return the processes of a training, each with the variables of torchrun and a core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    job = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "benchmark",
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        Rank(job | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cores[rank % len(cores)]) for rank in range(processes)
    ]


def groups(net: str, accelerator: str, processes: int) -> dict[str, Make]:
    """Return functions that start the trainings with one process and with several, by their name in the table."""
    device = "cpu" if accelerator == "cpu" else "cuda"
    alone = [Rank(core=min(os.sched_getaffinity(0)))]

    def by_hand(strategy: str) -> Make:
        return lambda: Candidate(hand_written_group, net, device, strategy, ranks=group(processes))

    def by_fit(ranks: Callable[[], list[Rank]], *options: str) -> Make:
        return lambda: Candidate(ours, net, accelerator, tempfile.mkdtemp(), options, ranks=ranks())

    made = {
        f"{BY_HAND}, 1 process": lambda: Candidate(hand_written, net, device, True, ranks=alone),
        "fit, 1 process": by_fit(lambda: alone),
    }
    for strategy in ("ddp", "fsdp"):
        options = [f"--strategy={strategy}", f"--trainer.devices={processes}"]
        made |= {
            f"{BY_HAND} {strategy}": by_hand(strategy),
            f"fit {strategy}": by_fit(lambda: group(processes), *options),
        }
    return made


def one_round(makes: Mapping[str, Make], warm_up: int, slices: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Start all trainings; measure the milliseconds per step of each, and the memory of each of their processes."""
    started: dict[str, Candidate] = {}
    try:
        for name, make in makes.items():
            started[name] = make()
        for candidate in started.values():
            candidate.warm_up(warm_up)
        milliseconds = ms_per_step(started, slices)
        return milliseconds, {name: candidate.memory_mib() for name, candidate in started.items()}
    finally:
        for candidate in started.values():
            candidate.kill()


def main(argv: Sequence[str]) -> None:
    """Run the rounds for each net, and print its lines and tables."""
    parser = make_parser("benchmarks.step", __doc__, 5, "one short round of the small net")
    parser.add_argument("--net", nargs="+", choices=NETS, default=["small", "default"])
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--parts", action="store_true", help="measure `fit` also without each of its parts")
    parser.add_argument("--slices", type=int, default=SLICES_PER_ROUND, help=f"of a round ({SLICES_PER_ROUND})")
    parser.add_argument("--processes", type=int, default=1, help="compare strategies with this number of processes")
    args = parser.parse_args(argv)
    if args.accelerator == "gpu" and torch.cuda.device_count() < args.processes:
        parser.error(f"got --accelerator gpu with {torch.cuda.device_count()} GPUs; it needs {args.processes}")
    slices, warm_up = (QUICK_SLICES, QUICK_WARM_UP_STEPS) if args.quick else (args.slices, WARM_UP_STEPS)
    for net in ["small"] if args.quick else args.net:
        if args.processes > 1:
            makes = groups(net, args.accelerator, args.processes)
        else:
            makes = candidates(net, args.accelerator, parts=args.parts)
        measured = [one_round(makes, warm_up, slices) for _ in range(rounds_of(args))]
        title = f"{net}, {args.accelerator}"
        if args.processes > 1:
            title += f", {args.processes} processes"
            report_groups(title, [one[0] for one in measured])
        else:
            report(title, [one[0] for one in measured], "ms", BY_HAND)
        report_memory(title, [one[1] for one in measured])


def report_groups(title: str, rounds: Sequence[Mapping[str, float]]) -> None:
    """Print tables of the speed relative to one process on each core, and relative to the same strategy by hand."""
    tables = {
        "by hand": [f"{BY_HAND}, 1 process", f"{BY_HAND} ddp", f"{BY_HAND} fsdp"],
        "fit": ["fit, 1 process", "fit ddp", "fit fsdp"],
        "ddp": [f"{BY_HAND} ddp", "fit ddp"],
        "fsdp": [f"{BY_HAND} fsdp", "fit fsdp"],
    }
    for name, row in tables.items():
        report(f"{title}, {name}", [{each: one[each] for each in row} for one in rounds], "ms", row[0])


def report_memory(title: str, rounds: Sequence[Mapping[str, Sequence[float]]]) -> None:
    """Print the largest memory of each process."""
    for name in rounds[0]:
        for rank in range(len(rounds[0][name])):
            print_line(f"{title}: {name}: peak memory of rank {rank}", [one[name][rank] for one in rounds], "MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
