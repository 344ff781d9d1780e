"""Code paths that need a GPU. Without a GPU, `make gpu` runs the remaining parts of each test on the CPU.

Each test covers one path, and asserts a number that differs if the path is not taken.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import clean_environment
from lightning import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from torch import Tensor
from torch.distributed.tensor import DTensor

from benchmarks.jpeg_on_gpu import batches_of_cpu, batches_of_gpu, write_files
from benchmarks.lines import print_line
from project.engine.loading import Augmentation, BatchLoader, Crop, EpochBatches, ImageArray, Workers
from project.engine.loading.counter_rng import sample_keys
from project.engine.loading.images import Fetched, Request
from project.engine.loading.mixup import cutmix, mixup
from project.engine.loading.prefetch_to_device import on_device
from project.engine.search.device_pool import Devices, gpu_ids
from project.fit import main
from project.models import CNN, WhitenedCNN

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(90)]

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
SHORT = ["--max_epochs=1", "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=2",
         "--trainer.enable_progress_bar=false"]  # fmt: skip
SMALL = ["--model.net.widths=[8,8]", "--model.net.hidden=16"]
Note = Callable[..., None]


@pytest.fixture
def note(capsys: pytest.CaptureFixture[str]) -> Note:
    """Return a function that prints the line of a measured value: its name, the value, and its unit."""

    def show(name: str, value: float, unit: str = "share") -> None:
        with capsys.disabled():
            print()  # pytest has printed the name of the test, without the end of the line.
            print_line(name, [value], unit)

    return show


class Probe(Callback):
    """A callback that calls a function after the first training step."""

    def __init__(self, look: Callable[[Trainer, Any], None]) -> None:
        self._look = look

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._look(trainer, pl_module)


def metrics_of(folder: Path) -> dict[str, float]:
    """Return the metrics of the only run in a folder."""
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return dict(run.data.metrics)


# ---- loading


def test_batches_are_pinned_for_a_gpu(workplace: Path) -> None:
    seen: list[tuple[bool, str]] = []

    def look(trainer: Trainer, module: Any) -> None:
        loader = trainer.train_dataloader
        requests = iter([Request(torch.arange(4), None)])
        pinned = next(loader.images.stream(requests, loader.workers, loader.crop)).images.is_pinned()
        seen.append((pinned, next(module.parameters()).device.type))

    main([*SHORT, *SMALL, "--trainer.limit_train_batches=2"], [Probe(look)])
    assert seen == [(GPU, DEVICE.type)]


@needs_gpu
def test_the_next_batch_is_copied_while_the_gpu_works(note: Note) -> None:
    count, images = 12, torch.zeros(256, 3, 512, 512, dtype=torch.uint8)

    def step() -> None:
        torch.cuda._sleep(40_000_000)  # About 20 ms.

    def seconds(work: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def copied() -> Iterator[Fetched]:
        stored = ImageArray(images, torch.zeros(256, dtype=torch.int64))
        requests = (Request(torch.arange(256), None) for _ in range(count))
        yield from stored.stream(requests, Workers(), Crop(512))

    def train() -> None:
        for _ in on_device(iter(batches), lambda fetched: (fetched.images.float(), fetched.targets), DEVICE):
            step()

    batches = list(copied())
    seconds(train)
    steps = seconds(lambda: [step() for _ in range(count)])
    copies = seconds(lambda: [batch.images.to(DEVICE, non_blocking=True).float() for batch in batches])
    together = seconds(train)
    note("copies hidden behind steps", (steps + copies - together) / copies)
    assert together < steps + 0.4 * copies


def test_images_on_the_device_are_augmented_as_on_the_cpu_without_a_copy_from_the_host() -> None:
    pixels = torch.randint(0, 256, (600, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageArray(pixels, torch.arange(600))
    augment = Augmentation(2, "alternate", cutout=8, padding_mode="reflect")

    def batches(device: torch.device, resident: ImageArray | None) -> Iterator[tuple[Tensor, Tensor]]:
        sampler = EpochBatches(600, 100, shuffle=True)
        return iter(BatchLoader(images, sampler, Crop(32), augment, seed=0, device=device, resident=resident))

    found = batches(DEVICE, images.to(DEVICE))
    expected = batches(torch.device("cpu"), None)
    first = next(found)
    activity = torch.profiler.ProfilerActivity.CUDA if GPU else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        rest = list(found)
    names = {event.name for event in profile.events()}
    assert names and not any("HtoD" in name for name in names)
    for ours, theirs in zip([first, *rest], expected, strict=True):
        assert all(
            one.device.type == DEVICE.type and torch.equal(one.cpu(), two)
            for one, two in zip(ours, theirs, strict=True)
        )


@needs_gpu
@pytest.mark.parametrize("data", [[], ["--data.on_device=true"]])
def test_no_step_that_is_not_logged_waits_for_the_gpu(data: list[str], workplace: Path) -> None:
    is_strict: list[bool] = []

    class Strict(Callback):
        """Makes each wait for the GPU an error, from the second step to the one before the first that is logged."""

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            is_strict.append(torch.cuda.get_sync_debug_mode() == 2)
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step < 18 else "default")

    try:
        main([*SHORT, *SMALL, *data, "--trainer.limit_train_batches=20", "--trainer.log_every_n_steps=20"], [Strict()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert is_strict == [False, *[True] * 17, False, False]


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_images_are_mixed_on_the_device_of_their_keys_as_on_the_cpu(mix: Callable[..., Any]) -> None:
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = images, torch.eye(8), sample_keys(0, 0, torch.arange(8))
    for one, two in zip(mix(*given, 1.0), mix(*(each.to(DEVICE) for each in given), 1.0), strict=True):
        assert two.device.type == DEVICE.type
        torch.testing.assert_close(one.float(), two.cpu().float(), atol=1, rtol=1e-5)  # pixels may differ by 1


@pytest.mark.parametrize("slow", ["step", "data"])
def test_the_wait_fraction_is_the_share_of_time_in_which_the_device_is_idle(
    slow: str, workplace: Path, note: Note
) -> None:
    class SlowStep(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            if GPU:
                torch.cuda._sleep(40_000_000)
            else:
                torch.randn(1500, 1500) @ torch.randn(1500, 1500)

    data = ["--data.class_path=slow_data.SlowDigits"] if slow == "data" else []
    main([*SHORT, *SMALL, *data, "--trainer.limit_train_batches=10"], [SlowStep()] if slow == "step" else [])
    waited = metrics_of(workplace)["data/wait_fraction"]
    note(f"data/wait_fraction with slow {slow}", waited)
    assert waited < 0.1 if slow == "step" else waited > 0.5


def test_nvjpeg_gives_the_pixels_of_our_decoder(tmp_path: Path, note: Note) -> None:
    paths = write_files(tmp_path / "files", 320, 240, 6)
    (ours,) = batches_of_cpu(paths, 128, 6, DEVICE)()
    (theirs,) = batches_of_gpu(paths, 128, 6, DEVICE)()
    assert theirs.device.type == ours.device.type == DEVICE.type
    assert theirs.shape == ours.shape == (6, 3, 128, 128)
    difference = (ours.float() - theirs.float()).abs().mean().item()
    note(
        "mean difference of pixels, our decoder and nvJPEG" if GPU else "our decoder and torchvision's",
        difference,
        "of 255",
    )
    assert difference < 2 < (ours.float() - theirs.float().flip(3)).abs().mean().item()


# ---- numbers and memory


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        pytest.param("16-mixed", torch.float16, marks=needs_gpu),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("32-true", torch.float32),
    ],
)
def test_convolutions_compute_in_the_precision(precision: str, dtype: torch.dtype, workplace: Path) -> None:
    seen: set[torch.dtype] = set()

    class Hook(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            convolution = next(m for m in pl_module.modules() if isinstance(m, torch.nn.Conv2d))
            convolution.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))

    main([*SHORT, *SMALL, f"--precision={precision}", "--trainer.limit_train_batches=4"], [Hook()])
    assert seen == {dtype}
    assert metrics_of(workplace)["train/loss_epoch"] < 5


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_fsdp_shards_on_the_device_and_computes_in_the_precision(
    precision: str, dtype: torch.dtype, workplace: Path
) -> None:
    seen: list[bool] = []
    outputs: set[torch.dtype] = set()

    class Look(Probe):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                convolution = next(m for m in pl_module.modules() if isinstance(m, torch.nn.Conv2d))
                convolution.register_forward_hook(lambda _module, _inputs, output: outputs.add(output.dtype))

    def look(trainer: Trainer, module: Any) -> None:
        seen.extend(isinstance(p, DTensor) and p.device.type == DEVICE.type for p in module.net.parameters())

    main([*SHORT, *SMALL, "--strategy=fsdp", "--devices=1", f"--precision={precision}",
          "--trainer.limit_train_batches=4"], [Look(look)])  # fmt: skip
    assert seen
    assert all(seen)
    assert outputs == {dtype}


def test_channels_last_is_the_memory_format_of_the_weights(workplace: Path) -> None:
    seen: list[bool] = []

    def look(trainer: Trainer, module: Any) -> None:
        seen.extend(
            weights.is_contiguous(memory_format=torch.channels_last)
            for name, weights in module.net.named_parameters()
            if weights.ndim == 4 and weights.shape[1] > 1
        )

    main([*SHORT, *SMALL, "--model.channels_last=true", "--trainer.limit_train_batches=2"], [Probe(look)])
    assert seen
    assert all(seen)


def test_a_net_is_compiled_and_has_the_same_loss_as_the_uncompiled_one(workplace: Path, note: Note) -> None:
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
            losses.append(float(outputs["loss"]))

    for compiled in ("false", "true"):
        torch._dynamo.utils.counters.clear()
        main([*SHORT, *SMALL, f"--model.compile={compiled}", "--trainer.limit_train_batches=3",
              "--trainer.logger=false"], [Losses()])  # fmt: skip
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == (compiled == "true")
    difference = max(abs(a - b) for a, b in zip(losses[:3], losses[3:], strict=True))
    note("largest difference of a loss, compiled and not", difference, "loss")
    assert difference < 1e-2


@needs_gpu
def test_a_net_compiled_with_cuda_graphs_replays_them_and_has_the_same_loss(workplace: Path, note: Note) -> None:
    losses: list[float] = []
    operations: list[str] = []
    activity = torch.profiler.ProfilerActivity
    profile = torch.profiler.profile(activities=[activity.CPU, activity.CUDA])

    class Last(Callback):
        """Records the losses, and the operations of the last step."""

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if pl_module.compile_net and batch_idx == 7:
                profile.start()

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            losses.append(float(outputs["loss"]))
            if pl_module.compile_net and batch_idx == 7:
                profile.stop()
                operations.extend(event.name for event in profile.events())

    for compiled in ("false", "reduce-overhead"):
        main([*SHORT, *SMALL, f"--model.compile={compiled}", "--trainer.limit_train_batches=8"], [Last()])
    launched = [name for name in operations if "GraphLaunch" in name]
    note("CUDA graphs of a step", len(launched), "graphs")
    assert len(launched) == 2, operations  # forward and backward
    assert losses[:8] == pytest.approx(losses[8:], abs=1e-2)


@pytest.mark.parametrize("net", [CNN, WhitenedCNN])
def test_gradients_of_a_compiled_net_are_finite_in_bfloat16(net: type[torch.nn.Module]) -> None:
    model = net(10, 3, 16, widths=(8, 8)).to(DEVICE)
    model.compile()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = model(torch.randn(4, 3, 16, 16, device=DEVICE)).square().mean()
    loss.backward()
    assert all(weights.grad.isfinite().all() for weights in model.parameters() if weights.requires_grad)


def test_a_resumed_run_ends_bit_equal_with_deterministic_kernels(tmp_path: Path, monkeypatch: Any) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    options = [*SHORT, *SMALL, "--trainer.deterministic=true", "--trainer.limit_train_batches=20"]
    weights: list[dict[str, Tensor]] = []
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        if name == "whole":
            main(options)
        else:
            with pytest.raises(SystemExit):
                main(options, [Stop()])
            (run,) = [path.name for path in Path("mlruns/checkpoints").iterdir()]
            main(["--resume", run])
        (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
        weights.append(torch.load(last, weights_only=True, map_location="cpu")["state_dict"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# ---- sweeps


@needs_gpu
@pytest.mark.parametrize("named", ["index", "uuid"])
def test_a_trial_sees_the_gpu_that_it_is_assigned(named: str) -> None:
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    ids = gpu_ids("0" if named == "index" else uuid, torch.cuda.device_count())
    assigned = Devices(1, 1, 2, ids).acquire()
    program = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid)"
    seen = subprocess.check_output([sys.executable, "-c", program], env=os.environ | assigned, text=True)
    assert seen.split() == ["1", uuid.removeprefix("GPU-")]


def test_forked_trials_train_on_the_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "project.sweep", "--search=cnn", "--n_trials=2", *SHORT, *SMALL,
         "--trainer.limit_train_batches=4"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    devices = [run.data.tags["devices"] for run in runs if "trial" in run.data.tags]
    assert devices == [f"1 {'CUDA' if GPU else 'CPU'}"] * 2
