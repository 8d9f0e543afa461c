"""Fixtures that the tests share: one thread, seeded torch, float64 numbers by key, and the smallest models."""

import importlib.util
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from wandb_server import WandbServer

from vlae.distributions.outputs import BernoulliOutput, GaussianOutput, OutputDistribution
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import Activation, Decoder, ImageShape, initialise
from vlae.seeding import Noise, batch_noise, generator

os.environ["WANDB_MODE"] = "disabled"  # but for the tests that are about it
for ignored in (
    n for n in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2) if signal.getsignal(n) == signal.SIG_IGN
):
    # under nohup or in the background of a shell: with a handler here, what the tests start begins with the default
    signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else lambda *_: None)
torch.set_num_threads(1)  # the workers of pytest-xdist share the cores

LAUNCH = Path(__file__).parents[1] / "launch.py"

IMAGES, PIXELS, LATENT, HIDDEN = 4, 7, 3, (6, 5)
"""Every size is different, so that an axis taken for another one is an error."""

OUTPUTS = ("gaussian", "bernoulli")

IMAGE = (1, 5, 4)
"""The smallest image for convolutions with an odd and an even side."""

NETWORKS = [
    pytest.param({"activation": "gelu"}, id="gelu-mlp"),
    pytest.param({"activation": "softplus"}, id="softplus-mlp"),
    pytest.param({"activation": "relu", "image": IMAGE}, id="relu-conv"),
    pytest.param({"activation": "tanh", "image": IMAGE}, id="tanh-conv"),
]
"""Keys of ``make_decoder`` for decoders that are linearised by automatic differentiation."""


def pixels_of(keys: dict) -> int:
    return math.prod(keys["image"]) if "image" in keys else PIXELS


forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
"""Mark of tests with jacfwd or jvp: torch loads its forward-mode rules by torch.jit.script, which it deprecates."""


def pytest_xdist_auto_num_workers() -> int:
    """More than twice the number of processors: most tests wait for other processes."""
    return 2 * (os.cpu_count() or 1) + 1


NUMERICAL = {
    *("test_ais", "test_evaluate", "test_every_network", "test_fitted", "test_gaps", "test_laplace"),
    *("test_objective", "test_scoring", "test_train", "test_trained"),
}
"""Files whose slow tests call small functions thousands of times: executed annotations would double their time."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Execute annotations, but not in the slow tests of NUMERICAL; the quick ones call the same functions."""
    many_calls = item.path.stem in NUMERICAL and item.get_closest_marker("slow") is not None
    jaxtyping.config.update("jaxtyping_disable", many_calls)


@pytest.fixture(autouse=True)
def seeded():
    """No test depends on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def server():
    """A Weights & Biases server that has understood all that was asked of it, and has failed at nothing."""
    with WandbServer() as server:
        yield server
    assert not server.errors
    assert not server.unknown


@pytest.fixture
def run_launch(monkeypatch, tmp_path):
    """``python launch.py <words>`` in this process, in an empty directory: its exit status."""

    def run(*words: str) -> object:
        monkeypatch.setattr(sys, "argv", [str(LAUNCH), *words])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # launch.py sets it; so it is put back
        monkeypatch.chdir(tmp_path)
        spec = importlib.util.spec_from_file_location("launch", LAUNCH)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "launch", module)
        spec.loader.exec_module(module)
        try:
            return module.main()
        except SystemExit as end:
            return end.code

    return run


@pytest.fixture
def command(monkeypatch, capsys):
    """``vlae <words>`` in this process, 200 columns wide: its exit status, and what it printed."""

    def run(*words: object) -> tuple[int, str, str]:
        from vlae.cli.app import main

        monkeypatch.setattr(sys, "argv", ["vlae", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def numbers(*shape: int, key: str = "") -> Tensor:
    """Standard normal numbers in float64, a function of their shape and key."""
    return torch.randn(*shape, generator=generator("cpu", "numbers", key), dtype=torch.float64)


def noise(images: int = IMAGES, key: str = "", dtype: torch.dtype = torch.float64) -> Noise:
    return batch_noise(images, generator("cpu", "noise", key), dtype)


def given(eps: Tensor) -> Noise:
    """Noise that is ``eps`` [samples, batch, dim] at every call: common random numbers."""
    return lambda samples, dim: eps


def sigma_points(images: int, dim: int) -> Tensor:
    """+-sqrt(dim) e_i, as [2 dim, images, dim]: their mean of any quadratic is its mean under N(0, I), exactly."""
    points = dim**0.5 * torch.eye(dim, dtype=torch.float64)
    return torch.cat([points, -points]).unsqueeze(1).expand(-1, images, -1)


def make_output(name: str) -> OutputDistribution:
    if name == "bernoulli":
        return BernoulliOutput()
    output = GaussianOutput()
    output.initialise(0.3)
    return output


def make_images(name: str, images: int = IMAGES, pixels: int = PIXELS) -> Tensor:
    """Images that an output distribution of this name can have made."""
    x = numbers(images, pixels, key="images")
    return (x > 0).double() if name == "bernoulli" else x


def make_model(
    kind: type[LatentVariableModel],
    output: str,
    *,
    latent_dim: int = LATENT,
    hidden_dims: Sequence[int] = HIDDEN,
    activation: Activation = "relu",
    pixels: int = PIXELS,
    image: ImageShape | None = None,
    **keys: object,
) -> LatentVariableModel:
    """A model in float64 with weights of order one; convolutional if it is for images of a given shape."""
    backbone = Backbone(
        latent_dim=latent_dim,
        hidden_dims=hidden_dims,
        activation=activation,
        network="mlp" if image is None else "conv",
        pixels=pixels,
        image_shape=image,
        output=make_output(output),
    )
    model = kind(backbone, **keys)
    initialise(model, "paper", generator("cpu", "model", kind.__name__))
    return model.double()


def make_decoder(
    hidden_dims: Sequence[int] = HIDDEN,
    pixels: int = PIXELS,
    latent_dim: int = LATENT,
    activation: Activation = "relu",
    image: ImageShape | None = None,
) -> Decoder:
    """Fully connected, or convolutional for images of the given shape."""
    if image is None:
        decoder = Decoder.mlp(latent_dim, hidden_dims, pixels, activation)
    else:
        decoder = Decoder.conv(latent_dim, hidden_dims, image, activation)
    initialise(decoder, "paper", generator("cpu", "decoder"))
    return decoder.double()


@torch.no_grad()
def linear(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """Make the ReLU decoder exactly linear, f(z) = W z + b, and return (W, b). Hidden widths must be even.

    Units come in pairs that see a and -a, and relu(a) - relu(-a) = a: linear everywhere, although half of the
    units are off and which half depends on z.
    """
    W, b = torch.eye(decoder.latent_dim, dtype=torch.float64), torch.zeros(decoder.latent_dim).double()
    layers: list[nn.Linear] = [*decoder.body.linears, decoder.last]
    for depth, layer in enumerate(layers):
        half_in, half_out = layer.in_features // 2, layer.out_features // 2
        if depth > 0:
            layer.weight[:, half_in:] = -layer.weight[:, :half_in]
        if layer is not decoder.last:
            layer.weight[half_out:], layer.bias[half_out:] = -layer.weight[:half_out], -layer.bias[:half_out]
        own = layer.weight if depth == 0 else layer.weight[:, :half_in]
        W, b = own @ W, own @ b + layer.bias
        if layer is not decoder.last:
            W, b = W[:half_out], b[:half_out]
    return W, b


def scalar_gradients(value: Tensor, model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """d value / d every parameter and every input, by name."""
    tensors = dict(model.named_parameters()) | {f"input {i}": t for i, t in enumerate(inputs)}
    gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    return {name: g for name, g in zip(tensors, gradients, strict=True) if g is not None}


def assert_same_gradients(
    ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9
) -> None:
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        scale = max(expected[name].abs().max().item(), 1e-3)
        error = (gradient - expected[name]).abs().max().item()
        assert error < tolerance * scale, f"{name}: wrong by {error:.1e} of {scale:.1e}"
