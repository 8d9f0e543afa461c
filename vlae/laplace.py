"""Newton steps towards the mode of p(z | x), and the Gaussian there: the Laplace approximation."""

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions import PrecisionGaussian, cholesky
from vlae.likelihood import Likelihood
from vlae.networks import Decoder

CACHED_ROWS = 800
"""On a CPU, Jacobians of more rows (images x latent) at once than this leave the cache."""


def newton_step(likelihood: Likelihood, decoder: Decoder, z: Float[Tensor, "batch latent"]) -> Tensor:
    """d = P^-1 (grad log p(x | z) - z), the full Gauss-Newton step, with exact gradients at little cost.

    P and its Cholesky factor L are formed without gradient and give d0. Returned is
    d0 + L^-T L^-1 (g - P d0), where P d0 = J'V J d0 + d0 takes two matrix-vector products that are differentiated
    while L is held constant. Value and gradients are those of the dense P^-1 g, because dd = P^-1 (dg - dP d);
    the correction is also one step of iterative refinement.
    """
    at = decoder.linearise(z)
    g = likelihood.gradient(at) - z
    with torch.no_grad():
        parts = at.split(len(z) if z.device.type != "cpu" else max(1, CACHED_ROWS // z.shape[-1]))
        L = cholesky(torch.cat([likelihood.precision(part) for part in parts]))
        d0 = torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
    residual = g - likelihood.curvature_product(at, d0) - d0
    return d0 + torch.cholesky_solve(residual.unsqueeze(-1), L).squeeze(-1)


def laplace(likelihood: Likelihood, decoder: Decoder, mu: Float[Tensor, "batch latent"]) -> PrecisionGaussian:
    """N(mu, P(mu)^-1)."""
    return PrecisionGaussian(mu, likelihood.precision(decoder.linearise(mu)))
