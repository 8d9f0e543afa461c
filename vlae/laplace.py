"""Newton steps towards the mode of p(z | x), and the Gaussian there: the Laplace approximation."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions import OutputDistribution, PrecisionGaussian, cholesky, standard_normal_log_prob
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


@dataclass
class Modes:
    """Where the search for the maximum of log p(x, z) over z has ended, for each image."""

    z: Float[Tensor, "batch latent"]
    steps: Int[Tensor, " batch"]
    converged: Bool[Tensor, " batch"]
    """The gradient has vanished: the full step promises less than the tolerance."""
    on_kink: Bool[Tensor, " batch"]
    """Steps promise more than the tolerance and give less: the search has ended where ReLU units switch.

    In trained networks most searches do. It is the place for a proposal, though maybe not quite the maximum.
    """


FIRST_DAMPING, HARDER, EASIER = 0.1, 8, 4
"""Damping after the first refused step, relative to the mean of P's diagonal; its factors from then on."""


@torch.no_grad()
def find_modes(
    output: OutputDistribution,
    decoder: Decoder,
    x: Float[Tensor, "batch pixels"],
    start: Float[Tensor, "batch latent"],
    *,
    tolerance: float = 1e-2,
    max_steps: int = 50,
) -> Modes:
    """The mode of p(z | x) by Levenberg-Marquardt steps (P + damping I)^-1 g with g = grad log p(x, z).

    A step that does not raise log p(x, z) is refused, and the next one damped more. An image is done when its step
    promises to raise log p(x, z) by less than ``tolerance`` nats, which is g'(P + damping I)^-1 g / 2; without
    damping that is the gradient's norm in the metric of the posterior. Or when a step has raised it by less.
    """
    log_likelihood = output.scorer(decoder)

    def log_joint(images: Tensor, z: Tensor) -> Float[Tensor, " batch"]:
        return log_likelihood(images)(z.unsqueeze(0))[0] + standard_normal_log_prob(z)

    def terms(
        images: Tensor, z: Tensor
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent latent"]]:
        at, likelihood = decoder.linearise(z), output.likelihood(decoder, images)
        return likelihood.gradient(at) - z, likelihood.precision(at)

    z, value = start.clone(), log_joint(x, start)
    g, P = terms(x, z)
    damping, steps = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.long)
    done, vanished = (torch.zeros_like(value, dtype=torch.bool) for _ in range(2))
    for _ in range(max_steps):
        active = (~done).nonzero().squeeze(-1)
        if len(active) == 0:
            break
        here, damped = z[active], damping[active]
        step = damped_step(g[active], P[active], damped)
        done[active] = promises_little = (g[active] * step).sum(-1) < 2 * tolerance
        vanished[active] = promises_little & (damped == 0)
        trial = here + step
        reached = log_joint(x[active], trial)
        rounding = 8 * torch.finfo(x.dtype).eps * value[active].abs()
        better = (reached >= value[active] - rounding) & ~promises_little
        # a step that promised more and gave less went over a kink, and the next ones would
        done[active] |= better & (reached - value[active] < tolerance)
        moved = active[better]
        z[moved], value[moved] = trial[better], reached[better]
        if len(moved):  # after a refused step nothing has changed but the damping
            g[moved], P[moved] = terms(x[moved], z[moved])
        steps[active] += better
        eased = torch.where(damped > FIRST_DAMPING, damped / EASIER, 0.0)
        refused = torch.where(promises_little, damped, (HARDER * damped).clamp(min=FIRST_DAMPING))
        damping[active] = torch.where(better, eased, refused)
    return Modes(z, steps, converged=done & vanished, on_kink=done & ~vanished)


def damped_step(
    g: Float[Tensor, "batch latent"],
    P: Float[Tensor, "batch latent latent"],
    damping: Float[Tensor, " batch"],
) -> Float[Tensor, "batch latent"]:
    """(P + damping scale I)^-1 g, with the mean of P's diagonal as its scale."""
    added = damping * P.diagonal(dim1=-2, dim2=-1).mean(-1)
    L = cholesky(P + torch.diag_embed(added.unsqueeze(-1).expand_as(g)))
    return torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
