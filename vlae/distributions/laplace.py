"""The Laplace approximation: Newton steps towards the mode of p(z | x), and the Gaussian there."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions.likelihood import Likelihood
from vlae.distributions.outputs import OutputDistribution, Scorer
from vlae.distributions.posteriors import (
    Images,
    Latent,
    PrecisionGaussian,
    cholesky,
    standard_normal_log_prob,
)
from vlae.nn.networks import Decoder

CACHED_ROWS = 800
"""On a CPU, Jacobians of more rows (images x latent) at once than this leave the cache."""


def newton_step(likelihood: Likelihood, decoder: Decoder, z: Latent) -> Tensor:
    """d = P^-1 (grad log p(x | z) - z), the full Gauss-Newton step, with exact gradients at little cost.

    P and its Cholesky factor L are formed without gradient and give d0. Returned is
    d0 + L^-T L^-1 (g - P d0), where P d0 = J'V J d0 + d0 takes two matrix-vector products that are differentiated
    while L is held constant. Value and gradients are those of the dense P^-1 g, because dd = P^-1 (dg - dP d);
    the correction is also one step of iterative refinement. The step is [batch, latent].
    NonFiniteError: P is not finite or not positive definite.

    >>> from vlae.distributions.outputs import GaussianOutput
    >>> decoder, output, x, z = Decoder.mlp(2, [6], 16), GaussianOutput(), torch.randn(3, 16), torch.zeros(3, 2)
    >>> d = newton_step(output.likelihood(decoder, x), decoder, z)
    >>> J = torch.autograd.functional.jacobian(decoder, z[0])
    >>> dense = torch.linalg.solve(J.T @ J + torch.eye(2), J.T @ (x - decoder(z))[0] - z[0])
    >>> torch.allclose(d[0], dense, atol=1e-4)
    True
    """
    at = decoder.linearise(z)
    g = likelihood.gradient(at) - z
    with torch.no_grad():
        parts = at.split(len(z) if z.device.type != "cpu" else max(1, CACHED_ROWS // z.shape[-1]))
        L = cholesky(torch.cat([likelihood.precision(part) for part in parts]))
        d0 = torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
    residual = g - likelihood.curvature_product(at, d0) - d0
    return d0 + torch.cholesky_solve(residual.unsqueeze(-1), L).squeeze(-1)


def laplace(likelihood: Likelihood, decoder: Decoder, mu: Latent) -> PrecisionGaussian:
    """The Laplace approximation N(mu, P(mu)^-1), with P = J'VJ + I the precision at mu (Park, Kim, Kim 2019).

    P itself is computed by ``Likelihood.precision`` in likelihood.py. NonFiniteError: P is not positive definite.

    >>> from vlae.distributions.outputs import GaussianOutput
    >>> decoder, output, x = Decoder.mlp(2, [6], 16), GaussianOutput(), torch.zeros(3, 16)
    >>> q = laplace(output.likelihood(decoder, x), decoder, mu=torch.zeros(3, 2))
    >>> q.rsample_with_log_prob(torch.randn(5, 3, q.noise_dim))[0].shape
    torch.Size([5, 3, 2])
    """
    return PrecisionGaussian(mu, cholesky=cholesky(likelihood.precision(decoder.linearise(mu))))


@dataclass
class Modes:
    """Result of the search for the maximum of log p(x, z) over z, for each image."""

    z: Latent
    steps: Int[Tensor, " batch"]
    """Number of accepted steps."""
    converged: Bool[Tensor, " batch"]
    """The gradient has vanished: the full step promises less than the tolerance."""
    stalled: Bool[Tensor, " batch"]
    """The gradient has not vanished, but PATIENCE tries in a row raised log p(x, z) by less than the tolerance in all.

    Most searches in trained ReLU networks end so: the maximum lies where units switch, and steps zigzag across it.
    """
    value: Float[Tensor, " batch"]
    """log p(x, z) there, in nats."""
    precision: Float[Tensor, "batch latent latent"]
    """P = J'VJ + I there."""


FIRST_DAMPING, HARDER, EASIER = 0.1, 8, 4
"""Damping after the first refused step, relative to the mean of P's diagonal; its factors from then on."""
PATIENCE = 6
"""On trained VAE, HF and IAF of MNIST, 6 and 8 agree to 0.01 nats of likelihood and 5 % of sample size."""


@torch.no_grad()
def find_modes(
    output: OutputDistribution,
    decoder: Decoder,
    x: Images,
    start: Latent,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 60,
    scorer: Scorer | None = None,
) -> Modes:
    """The mode of p(z | x) by Levenberg-Marquardt steps (P + damping I)^-1 g with g = grad log p(x, z).

    A step that does not raise log p(x, z) is refused, and the next one damped more. An image is done when its full
    step promises to raise log p(x, z) by less than ``tolerance`` nats, which is g'P^-1 g / 2, the gradient's norm in
    the metric of the posterior; or when it has stalled. ``scorer``: ``output.scorer(decoder)``, if it is there already.
    NonFiniteError: a precision is not finite or not positive definite.

    >>> from vlae.distributions.outputs import GaussianOutput
    >>> decoder, output, x = Decoder.mlp(2, [6], 16), GaussianOutput(), torch.randn(3, 16)
    >>> modes = find_modes(output, decoder, x, start=torch.zeros(3, 2))
    >>> modes.z.shape, bool((modes.converged | modes.stalled).all())
    (torch.Size([3, 2]), True)
    """
    search = _Search(scorer or output.scorer(decoder), output.likelihood(decoder, x), decoder, x, start)
    active = torch.arange(len(x), device=x.device)
    for _ in range(max_steps):
        if len(active) == 0:
            break
        search.step(active, tolerance)
        active = active[~search.done[active]]
    undamped = damped_step(search.g, search.P, torch.zeros_like(search.damping))
    vanished = 0.5 * (search.g * undamped).sum(-1) < tolerance
    ended = search.done & vanished, search.done & ~vanished
    return Modes(search.z, search.steps, *ended, search.value, search.P)


class _Search:
    """One Levenberg-Marquardt search for each image, each with its own damping."""

    def __init__(
        self, scorer: Scorer, likelihood: Likelihood, decoder: Decoder, x: Tensor, start: Tensor
    ) -> None:
        self.decoder, self.x, self.z = decoder, x, start.clone()
        self.scorer, self.likelihood = scorer, likelihood
        self.value = self._log_joint(x, start)
        self.g, self.P = self._gradient_and_precision(self.likelihood, start)
        self.damping, self.gain = torch.zeros_like(self.value), torch.zeros_like(self.value)
        self.steps, self.tries = (torch.zeros_like(self.value, dtype=torch.long) for _ in range(2))
        self.done = torch.zeros_like(self.value, dtype=torch.bool)

    def step(self, active: Int[Tensor, " active"], tolerance: float) -> None:
        """Try one step for each active image."""
        damping, value = self.damping[active], self.value[active]
        step = damped_step(self.g[active], self.P[active], damping)
        promise = 0.5 * (self.g[active] * step).sum(-1)
        converged = (promise < tolerance) & (damping == 0)
        trial = self.z[active] + step
        reached = self._log_joint(self.x[active], trial)
        rounding = 8 * torch.finfo(value.dtype).eps * value.abs()
        better = (reached >= value - rounding) & ~converged
        moved = active[better]
        self.z[moved], self.value[moved] = trial[better], reached[better]
        if len(moved):  # after a refused step nothing has changed but the damping
            likelihood = self.likelihood.select(moved)
            self.g[moved], self.P[moved] = self._gradient_and_precision(likelihood, self.z[moved])
        self.steps[moved] += 1
        # a damped step that promises little says nothing of the mode: the next one is damped less
        easier = better | (promise < tolerance)
        eased = torch.where(damping > FIRST_DAMPING, damping / EASIER, 0.0)
        self.damping[active] = torch.where(easier, eased, (HARDER * damping).clamp(min=FIRST_DAMPING))
        gain = self.gain[active] + torch.where(better, reached - value, 0.0)
        self.tries[active] = torch.where(gain < tolerance, self.tries[active] + 1, 0)
        self.gain[active] = torch.where(gain < tolerance, gain, 0.0)
        self.done[active] = converged | (self.tries[active] >= PATIENCE)

    def _log_joint(self, x: Tensor, z: Tensor) -> Float[Tensor, " batch"]:
        return self.scorer(x)(z.unsqueeze(0))[0] + standard_normal_log_prob(z)

    def _gradient_and_precision(
        self, likelihood: Likelihood, z: Tensor
    ) -> tuple[Latent, Float[Tensor, "batch latent latent"]]:
        at = self.decoder.linearise(z)
        return likelihood.gradient(at) - z, likelihood.precision(at)


def damped_step(
    g: Latent, P: Float[Tensor, "batch latent latent"], damping: Float[Tensor, " batch"]
) -> Latent:
    """(P + damping scale I)^-1 g, with the mean of P's diagonal as its scale."""
    added = damping * P.diagonal(dim1=-2, dim2=-1).mean(-1)
    L = cholesky(P + torch.diag_embed(added.unsqueeze(-1).expand_as(g)))
    return torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
