"""A decoder with one slope for z > 0 and one for z < 0 in each dimension: its posteriors in closed form.

f_i(z) = a_i z_i for z_i > 0 and -b_i z_i for z_i < 0, as a ReLU network of one layer. Given a pixel x_i, z_i is a
mixture of two truncated Gaussians, one on each side of 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from vlae.distributions.outputs import GaussianOutput
from vlae.nn.networks import Decoder

VARIANCE = 0.04
"""Variance of the pixels, so small that modes lie some standard deviations away from the fold."""


def folded_output() -> GaussianOutput:
    output = GaussianOutput().double()
    output.initialise(VARIANCE)
    return output


@torch.no_grad()
def folded(slopes: Sequence[tuple[float, float]]) -> Decoder:
    """The decoder with these (a_i, b_i), one pair for each dimension, which has a pixel of its own."""
    dim = len(slopes)
    decoder = Decoder.mlp(dim, [2 * dim], dim).double()
    eye, zero = torch.eye(dim).double(), torch.zeros(1).double()
    decoder.body.linears[0].weight.copy_(torch.cat([eye, -eye]))
    decoder.body.linears[0].bias.copy_(zero)
    a, b = (torch.diag(torch.tensor(side).double()) for side in zip(*slopes, strict=True))
    decoder.last.weight.copy_(torch.cat([a, b], 1))
    decoder.last.bias.copy_(zero)
    return decoder


def mode(slope: float, x: float) -> float:
    """Where the posterior of one dimension would have its mode, if f had this slope everywhere."""
    return slope * x / (slope**2 + VARIANCE)


def log_sides(slopes: Sequence[tuple[float, float]], x: Tensor) -> Tensor:
    """log of what z_i > 0 and z_i < 0 contribute to p(x_i), [images, dimensions, 2]; log p(x) sums over both.

    N(x; 0, a^2 + s^2) times the probability of the side under the Gaussian with the mode and variance
    s^2 / (a^2 + s^2).
    """
    signed = torch.tensor(slopes).double()
    signed = torch.stack([signed[:, 0], -signed[:, 1]], -1)
    variance, x = signed.square() + VARIANCE, x.unsqueeze(-1)
    mean, sd = signed * x / variance, (VARIANCE / variance).sqrt()
    side = torch.tensor([1.0, -1.0]).double() * mean / sd
    return Normal(0.0, variance.sqrt()).log_prob(x) + torch.special.log_ndtr(side)


def log_evidence(slopes: Sequence[tuple[float, float]], x: Tensor) -> Tensor:
    """log p(x) of images [images, dimensions]."""
    return log_sides(slopes, x).logsumexp(-1).sum(-1)
