"""Encoders' bodies and decoders, fully connected or convolutional, and their initial weights."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlae.config.problems import ConfigError, Problem
from vlae.nn.linearisation import FunctionLinearisation, Linearisation, ReLULinearisation, ThenLinear

Activation = Literal["relu", "gelu", "softplus", "tanh"]
Network = Literal["mlp", "conv"]
ImageShape = tuple[int, int, int]
"""Channels, height, width."""

CHANNELS = 16, 32
"""Channels of the two convolutions of an encoder; a decoder has them in reverse."""
SMALLEST_SIDE = 4
"""Smallest side of an image that survives two convolutions of stride 2."""


def activation_layer(activation: str) -> nn.Module:
    """A new layer of this activation."""
    if activation == "relu":
        return nn.ReLU(inplace=True)
    return {"gelu": nn.GELU, "softplus": nn.Softplus, "tanh": nn.Tanh}[activation]()


class MLP(nn.Sequential):
    """A linear layer and units, once per entry of ``hidden_dims``: ``in_dim -> hidden_dims[0] -> ... -> [-1]``.

    >>> MLP(16, [8, 4])(torch.zeros(3, 16)).shape
    torch.Size([3, 4])
    """

    def __init__(self, in_dim: int, hidden_dims: Sequence[int], activation: Activation = "relu") -> None:
        dims = [in_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(dims):
            layers += [nn.Linear(before, after), activation_layer(activation)]
        super().__init__(*layers)
        self.activation = activation

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, without the units between them."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]


def feature_map_shapes(image: ImageShape) -> list[ImageShape]:
    """Shapes of the image and of each convolution's output, which has ceil(n / 2) places of n.

    ConfigError: the image is too small.

    >>> feature_map_shapes((1, 28, 28))
    [(1, 28, 28), (16, 14, 14), (32, 7, 7)]
    """
    _, height, width = image
    if min(height, width) < SMALLEST_SIDE:
        least = f"conv needs {SMALLEST_SIDE}x{SMALLEST_SIDE} or more"
        text = f"expected mlp for images of {height}x{width} pixels ({least}), got 'conv'"
        raise ConfigError([Problem("model.network", text)])
    shapes = [image]
    for channels in CHANNELS:
        height, width = (height + 1) // 2, (width + 1) // 2
        shapes.append((channels, height, width))
    return shapes


class ConvEncoder(nn.Sequential):
    """Two 3x3 convolutions of stride 2, then a fully connected network of ``hidden_dims``.

    ConfigError: an image of fewer than 4x4 pixels.

    >>> ConvEncoder((1, 8, 8), [10])(torch.zeros(3, 64)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self, image: ImageShape, hidden_dims: Sequence[int], activation: Activation = "relu"
    ) -> None:
        shapes = feature_map_shapes(image)
        layers: list[nn.Module] = [nn.Unflatten(1, image)]
        for (before, *_), (after, *_) in itertools.pairwise(shapes):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), activation_layer(activation)]
        dense = MLP(math.prod(shapes[-1]), hidden_dims, activation)
        super().__init__(*layers, nn.Flatten(), *dense)
        self.shapes = shapes


class ConvDecoderBody(nn.Sequential):
    """The mirror image of ``ConvEncoder``: z -> fully connected -> two transposed convolutions -> pixels.

    A convolution maps 2n - 1 and 2n places to n; in reverse, ``output_padding`` decides between them.

    >>> ConvDecoderBody(2, [10], (1, 8, 7))(torch.zeros(3, 2)).shape
    torch.Size([3, 56])
    """

    def __init__(
        self, latent_dim: int, hidden_dims: Sequence[int], image: ImageShape, activation: Activation = "relu"
    ) -> None:
        shapes = feature_map_shapes(image)
        dense = MLP(latent_dim, [*hidden_dims, math.prod(shapes[-1])], activation)
        layers: list[nn.Module] = [*dense, nn.Unflatten(1, shapes[-1])]
        for (before, *_), (after, height, width) in itertools.pairwise(reversed(shapes)):
            even = 1 - height % 2, 1 - width % 2
            layers.append(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=even))
            layers.append(activation_layer(activation))
        super().__init__(*layers[:-1], nn.Flatten())
        self.shapes = shapes


class GaussianHead(nn.Module):
    """Two linear heads on the encoder's features: mean and log-variance of a diagonal Gaussian.

    >>> mu, log_variance = GaussianHead(hidden_dim=8, latent_dim=2)(torch.zeros(3, 8))
    >>> mu.shape, log_variance.shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    def __init__(self, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.log_variance = nn.Linear(hidden_dim, latent_dim)

    def forward(
        self, h: Float[Tensor, "batch hidden"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """The mean and the log-variance of each image."""
        return self.mu(h), self.log_variance(h)


class Decoder(nn.Module):
    """f: z -> body -> ``last``, a linear layer with one output per pixel (a mean or a logit).

    Without ``last`` the body itself ends in pixels.

    >>> decoder = Decoder.mlp(latent_dim=2, hidden_dims=[6, 5], pixels=16)
    >>> decoder(torch.zeros(7, 3, 2)).shape
    torch.Size([7, 3, 16])
    >>> at = decoder.linearise(torch.zeros(3, 2))
    >>> decoder.linearise_pixels(at).jacobian().shape  # one row per latent dimension
    torch.Size([3, 2, 16])
    """

    def __init__(self, latent_dim: int, body: nn.Module, last: nn.Linear | None) -> None:
        super().__init__()
        self.latent_dim, self.body, self.last = latent_dim, body, last

    @classmethod
    def mlp(
        cls, latent_dim: int, hidden_dims: Sequence[int], pixels: int, activation: Activation = "relu"
    ) -> "Decoder":
        """A decoder of fully connected layers: latent_dim -> hidden_dims[0] -> ... -> pixels."""
        body = MLP(latent_dim, hidden_dims, activation)
        return cls(latent_dim, body, nn.Linear(hidden_dims[-1], pixels))

    @classmethod
    def conv(
        cls, latent_dim: int, hidden_dims: Sequence[int], image: ImageShape, activation: Activation = "relu"
    ) -> "Decoder":
        """A decoder without ``last``: a transposed convolution has more inputs than pixels (docs/decisions/0006)."""
        return cls(latent_dim, ConvDecoderBody(latent_dim, hidden_dims, image, activation), None)

    def forward(self, z: Float[Tensor, "*axes latent"]) -> Float[Tensor, "*axes pixels"]:
        """f(z) for any number of leading axes."""
        # as one matrix: an in-place ReLU on a view, which more axes would make of it, copies in the backward pass
        h = self.body(z.reshape(-1, self.latent_dim))
        return (h if self.last is None else self.last(h)).view(*z.shape[:-1], -1)

    def linearise(self, z: Float[Tensor, "batch latent"]) -> Linearisation:
        """Features and Jacobian of the body at z: by formula for ReLU layers, else by automatic differentiation."""
        if isinstance(self.body, MLP) and self.body.activation == "relu":
            return ReLULinearisation.at(self.body.linears, z)
        return FunctionLinearisation(self.body, z)

    def linearise_pixels(self, at: Linearisation) -> Linearisation:
        """The linearisation of f, whose output are pixels, given that of the body."""
        return at if self.last is None else ThenLinear(at, self.last)


WEIGHTED = nn.Linear, nn.Conv2d, nn.ConvTranspose2d
"""Layers with weights."""


def fans(layer: nn.Module) -> tuple[float, float]:
    """Number of inputs that an output sees, and of outputs that an input reaches; an average, away from the border.

    A convolution of stride s has s^2 times fewer outputs than inputs have places, a transposed one more.
    TypeError: another layer.

    >>> fans(nn.Linear(3, 5)), fans(nn.Conv2d(1, 16, 3, stride=2))
    ((3, 5), (9, 36.0))
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        raise TypeError(f"expected a linear layer or a convolution, got {type(layer).__name__}")
    window, stride = math.prod(layer.kernel_size), math.prod(layer.stride)
    seen, reached = layer.in_channels * window, layer.out_channels * window
    return (seen / stride, reached) if layer.transposed else (seen, reached / stride)


def initialise(module: nn.Module, scheme: str, source: torch.Generator) -> None:
    """Draw the weights of every layer, uniform with fan-out scaling (He et al. 2015, backward case).

    ``paper``: gain 2^(1/3), which keeps the variance of the backward pass through three layers with two ReLUs
    at one. ``original``: gain sqrt(2 / (1 + 2^(2/3))) = 0.879, because the released code passes 2^(1/3) as
    the slope of a leaky ReLU (docs/decisions/0001). Biases: uniform in +-1/sqrt(fan_in), torch's default.

    The gain is the same for all networks and activations, so models that differ in their activation alone begin
    with the same weights. Where a ReLU passes 1/2 of the backward variance, other units pass of standard normal
    inputs 0.46 (gelu), 0.46 (tanh), 0.29 (softplus).
    """
    gain = {"paper": 2 ** (1 / 3), "original": math.sqrt(2 / (1 + 2 ** (2 / 3)))}[scheme]
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, WEIGHTED):
                fan_in, fan_out = fans(layer)
                layer.weight.uniform_(-1, 1, generator=source).mul_(gain * math.sqrt(3 / fan_out))
                if layer.bias is not None:
                    layer.bias.uniform_(-1, 1, generator=source).mul_(1 / math.sqrt(fan_in))


def adapt_to_input_variance(encoder: nn.Module, variance: float, latent_dim: int) -> None:
    """Scale an encoder with ``paper`` weights so that its means and log-variances begin with variance 1 at most.

    Fan-out scaling keeps the variance of the backward pass at one. In the forward pass, d ReLU layers and the heads
    scale the input variance by 2^((2 - d) / 3) * pixels / latent (with convolutions: by the product of all
    fan-in / fan-out, including the heads), which the first layer undoes here. Input variances below 1, such as those
    of pixels in [0, 1], stay as in the paper. Those of the logit transform reach 14 with lambda = 1e-6: the resulting
    log-variances of +-50 would make the first steps of training diverge.
    """
    layers = [layer for layer in encoder.modules() if isinstance(layer, WEIGHTED)]
    ratios = [fan_in / fan_out for fan_in, fan_out in map(fans, layers)]
    features = fans(layers[-1])[1]
    growth = 2 ** ((2 - len(layers)) / 3) * math.prod(ratios) * features / latent_dim
    if variance > 1 and variance * growth > 1:
        with torch.no_grad():
            layers[0].weight.div_(math.sqrt(variance * growth))


def largest_layer(model: nn.Module) -> int:
    """Size of the largest output of any layer for one image, from which memory is planned.

    >>> largest_layer(MLP(16, [64, 8]))
    64
    """
    dense = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    networks = [layer for layer in model.modules() if isinstance(layer, ConvEncoder | ConvDecoderBody)]
    return max([*dense, *(math.prod(shape) for network in networks for shape in network.shapes)])
