"""Fully connected ReLU networks: the encoder's body, the decoder, and the decoder's exact linearisation."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear and ReLU, once per entry of ``hidden_dims``: ``in_dim -> hidden_dims[0] -> ... -> hidden_dims[-1]``."""

    def __init__(self, in_dim: int, hidden_dims: Sequence[int]) -> None:
        dims = [in_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(dims):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        super().__init__(*layers)

    @property
    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self if isinstance(layer, nn.Linear)]


class GaussianHead(nn.Module):
    """Two linear heads on the encoder's features: mean and log-variance of a diagonal Gaussian."""

    def __init__(self, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.log_variance = nn.Linear(hidden_dim, latent_dim)

    def forward(
        self, h: Float[Tensor, "batch hidden"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        return self.mu(h), self.log_variance(h)


@dataclass
class Linearisation:
    """The decoder's hidden features h(z) near one z per image: exactly linear wherever no ReLU changes sign.

    With D_l the 0/1 diagonal of the active units of layer l, the Jacobian dh/dz is A = D_L W_L ... D_1 W_1.
    ``features`` is h itself, differentiable; the masks D_l are constants almost everywhere.
    """

    linears: list[nn.Linear]
    masks: list[Float[Tensor, "batch _"]]
    features: Float[Tensor, "batch hidden"]

    def split(self, images: int) -> "list[Linearisation]":
        """The same, for at most ``images`` images each, its features without their gradient."""
        masks = zip(*(mask.split(images) for mask in self.masks), strict=True)
        features = self.features.detach().split(images)
        return [Linearisation(self.linears, list(m), h) for m, h in zip(masks, features, strict=True)]

    def jvp(self, v: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch hidden"]:
        """A v."""
        for linear, mask in zip(self.linears, self.masks, strict=True):
            v = (v @ linear.weight.T) * mask
        return v

    def vjp(self, u: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch latent"]:
        """A' u."""
        for linear, mask in zip(reversed(self.linears), reversed(self.masks), strict=True):
            u = (u * mask) @ linear.weight
        return u

    def jacobian(self) -> Float[Tensor, "batch latent hidden"]:
        """A', one row per latent dimension, so that every large product is one plain matrix product."""
        rows = self.masks[0].unsqueeze(1) * self.linears[0].weight.T
        for linear, mask in zip(self.linears[1:], self.masks[1:], strict=True):
            rows = (rows @ linear.weight.T).mul_(mask.unsqueeze(1))
        return rows


class Decoder(nn.Module):
    """f: z -> ReLU layers -> linear layer with one output per pixel (a mean or a logit)."""

    def __init__(self, *, latent_dim: int, hidden_dims: Sequence[int], pixels: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.body = MLP(latent_dim, hidden_dims)
        self.last = nn.Linear(hidden_dims[-1], pixels)

    def forward(self, z: Float[Tensor, "*axes latent"]) -> Float[Tensor, "*axes pixels"]:
        # as one matrix: an in-place ReLU on a view, which more axes would make of it, copies in the backward pass
        return self.last(self.body(z.reshape(-1, self.latent_dim))).view(*z.shape[:-1], -1)

    def linearise(self, z: Float[Tensor, "batch latent"]) -> Linearisation:
        """h(z) and its Jacobian at z, as factors."""
        masks, h = [], z
        for linear in self.body.linears:
            h = torch.relu(linear(h))
            masks.append((h > 0).to(h.dtype))
        return Linearisation(self.body.linears, masks, h)


def initialise(module: nn.Module, scheme: str, source: torch.Generator) -> None:
    """Draw the weights of every linear layer, uniform with fan-out scaling (He et al. 2015, backward case).

    ``paper``: gain 2^(1/3), which keeps the variance of the backward pass through three layers with two ReLUs
    at one. ``original``: gain sqrt(2 / (1 + 2^(2/3))) = 0.879, because the released code passes 2^(1/3) as
    the slope of a leaky ReLU (docs/decisions/0001). Biases: uniform in +-1/sqrt(fan_in), torch's default.
    """
    gain = {"paper": 2 ** (1 / 3), "original": math.sqrt(2 / (1 + 2 ** (2 / 3)))}[scheme]
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                fan_out, fan_in = layer.weight.shape
                layer.weight.uniform_(-1, 1, generator=source).mul_(gain * math.sqrt(3 / fan_out))
                if layer.bias is not None:
                    layer.bias.uniform_(-1, 1, generator=source).mul_(1 / math.sqrt(fan_in))


def adapt_to_input_variance(encoder: MLP, variance: float, latent_dim: int) -> None:
    """Let means and log-variances of an encoder with ``paper`` weights begin with variance 1, not with more.

    Fan-out scaling keeps the backward pass at one; forward, d layers of ReLUs and the heads make of inputs of this
    variance outputs of variance * 2^((2 - d) / 3) * pixels / latent, which only the first layer need undo. Inputs of
    variance below 1, such as pixels in [0, 1], are left as the paper has them. Those of the logit transform reach 14
    with lambda = 1e-6: log-variances of +-50 would throw training off in its first steps.
    """
    pixels, depth = encoder.linears[0].in_features, len(encoder.linears)
    growth = 2 ** ((2 - depth) / 3) * pixels / latent_dim
    if variance > 1 and variance * growth > 1:
        with torch.no_grad():
            encoder.linears[0].weight.div_(math.sqrt(variance * growth))
