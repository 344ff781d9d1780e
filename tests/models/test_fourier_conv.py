"""`FourierConv2d` beside `nn.Conv2d`: outputs, gradients, states, and the exported program of a net that uses it."""

from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from tiny import SERVED
from torch import Tensor, nn

from project.fit import main
from project.models import CNN
from project.models.fourier_conv import FourierConv2d, is_faster


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int | str, int, int, int]:
    kernel = draw(st.integers(1, 17))
    padding: int | str = draw(st.one_of(st.just("same"), st.integers(0, 4)))
    least = 1 if padding == "same" else max(1, kernel - 2 * int(padding))
    height, width = (draw(st.integers(least, least + 40)) for _ in range(2))
    number, channels, outputs = (draw(st.integers(1, 4)) for _ in range(3))
    return number, channels, outputs, padding, kernel, height, width


def with_gradients(convolution: nn.Conv2d, images: Tensor, *, mixed: bool = False) -> list[Tensor]:
    """Return the outputs, and the gradients of images, weight and bias for one gradient of the outputs."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        outputs = convolution(images)
    of_outputs = torch.linspace(0.5, 1.5, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    inputs = [images, *convolution.parameters()]
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, of_outputs)]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(case=sizes(), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_outputs_and_gradients_are_those_of_conv2d(
    case: tuple[int, int, int, int | str, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    number, channels, out_channels, padding, kernel, height, width = case
    torch.manual_seed(seed)
    direct = nn.Conv2d(channels, out_channels, kernel, padding=padding).to(dtype)
    fourier = FourierConv2d(channels, out_channels, kernel, padding).to(dtype)  # type: ignore[arg-type]
    fourier.load_state_dict(direct.state_dict())
    images = torch.randn(number, channels, height, width, dtype=dtype)
    # In float32, oneDNN's gradients of large kernels are wrong for outputs one pixel wide on CPUs with AVX-512.
    reference = with_gradients(direct.double(), images.double())
    for ours, theirs in zip(with_gradients(fourier, images), reference, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        largest = float(theirs.abs().max())
        assert float((ours - theirs).abs().max()) <= (2e-5 if dtype == torch.float32 else 1e-12) * max(1, largest)


def test_bf16_mixed_computes_it_in_float32() -> None:
    torch.manual_seed(0)
    convolution = FourierConv2d(4, 4, 16)
    images = torch.randn(2, 4, 40, 40)
    assert convolution(images.bfloat16()).dtype == torch.float32
    mixed, full = with_gradients(convolution, images, mixed=True), with_gradients(convolution, images)
    for one, other in zip(mixed, full, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize(
    ("channels", "kernel", "outputs", "faster"),
    [((3, 64), 32, 498, True), ((64, 64), 32, 218, True), ((64, 128), 32, 78, True), ((128, 128), 32, 8, False),
     ((64, 64), 3, 32, False), ((32, 32), 7, 58, False), ((32, 32), 15, 2, False), ((32, 32), 32, 33, True)],
)  # fmt: skip
def test_it_is_chosen_where_the_benchmark_finds_it_faster(
    channels: tuple[int, int], kernel: int, outputs: int, faster: bool
) -> None:
    assert is_faster(*channels, kernel, outputs) == faster


def test_a_cnn_chooses_for_each_layer_and_its_weights_are_interchangeable() -> None:
    torch.manual_seed(0)
    small = {"widths": (16, 16), "kernel_size": 16, "padding": 0, "hidden": 8}
    nets = {name: CNN(3, 3, 60, convolution=name, **small) for name in ("auto", "direct", "fourier")}  # type: ignore[arg-type]
    kinds = {
        name: [type(layer).__name__ for layer in net.features if isinstance(layer, nn.Conv2d)]
        for name, net in nets.items()
    }
    assert kinds["direct"] == ["Conv2d", "Conv2d"] and kinds["fourier"] == ["FourierConv2d", "FourierConv2d"]
    assert kinds["auto"] == ["FourierConv2d", "Conv2d"]  # 45 and 7 pixels of outputs
    images = torch.randn(2, 3, 60, 60)
    for net in nets.values():
        net.load_state_dict(nets["direct"].state_dict())
        torch.testing.assert_close(net(images), nets["direct"](images), atol=1e-5, rtol=1e-4)
    assert not any(isinstance(layer, FourierConv2d) for layer in CNN(10, 1, 32).modules())


@pytest.mark.faults
def test_a_net_with_it_is_exported_for_any_number_of_images() -> None:
    net = CNN(3, 1, 40, widths=(4,), kernel_size=16, hidden=8, convolution="fourier").eval()
    program = torch.export.export(
        net, (torch.randn(2, 1, 40, 40),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    images = torch.randn(5, 1, 40, 40)
    torch.testing.assert_close(program(images), net(images))


@pytest.mark.faults
def test_the_served_model_of_a_fit_has_it(workplace: Path) -> None:
    net = ["--model.net=CNN", "--model.net.widths=[4]", "--model.net.kernel_size=5", "--model.net.convolution=fourier"]
    main([*SERVED, *net, "--max_epochs=1", "--precision=bf16-mixed", "--trainer.limit_train_batches=2"])
    (run,) = MlflowClient().search_runs(["1"])
    assert "model.error" not in run.data.tags
    (output,) = run.outputs.model_outputs
    (images,) = torch.randint(256, (1, 3, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = pd.DataFrame({"pixels": [image[..., 0].tolist() for image in images]})
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(rows)
    weights = torch.load(next(Path("mlruns/checkpoints", run.info.run_id).glob("best-*.ckpt")), weights_only=True)[
        "state_dict"
    ]
    trained = CNN(2, 1, 8, widths=(4,), kernel_size=5, convolution="direct")
    trained.load_state_dict({name[4:]: value for name, value in weights.items() if name.startswith("net.")})
    expected = trained((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).softmax(1)
    assert [row["probability"] for row in served] == pytest.approx(expected.max(1).values.tolist(), abs=1e-4)
