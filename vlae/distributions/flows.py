"""Gaussians transformed by flows."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import (
    CholeskyGaussian,
    DiagonalGaussian,
    Drawn,
    Points,
    Posterior,
    PrecisionGaussian,
)

FlowOutput = tuple[Points, Float[Tensor, "samples batch"]]
"""Points, and log |det dz/dz_0| of the flow between z_0 and z."""


@runtime_checkable
class Flow(Protocol):
    """An invertible map z_0 -> z for each image, both [samples, batch, latent].

    >>> from vlae.models.hf import Reflections
    >>> isinstance(Reflections([]), Flow)
    True
    """

    orthogonal: bool
    """True if it keeps lengths and angles, and so N(0, I)."""

    def __call__(self, z0: Points) -> FlowOutput:
        """z and log |det dz/dz_0|."""
        ...

    def inverse(self, z: Points) -> FlowOutput:
        """z_0 and log |det dz/dz_0|."""
        ...

    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters that distinguish the images' flows, each [batch, ...]."""
        ...

    def with_parameters(self, *parameters: Tensor) -> "Flow":
        """The flow with these parameters, and the same weights."""
        ...

    def detach(self) -> "Flow":
        """The same flow, its parameters and weights held constant."""
        ...


class FlowedGaussian:
    """A diagonal Gaussian pushed through a flow: log q(z) = log q_0(z_0) - log |det dz/dz_0| (Rezende, Mohamed 2015).

    >>> import torch
    >>> from vlae.models.hf import Reflections
    >>> base = DiagonalGaussian(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
    >>> q = FlowedGaussian(base, Reflections([torch.tensor([[1.0, 0.0]])]))  # flips the first axis
    >>> z, log_q = q.rsample_with_log_prob(torch.zeros(1, 1, 2))
    >>> z, torch.equal(q.log_prob(z), log_q)
    (tensor([[[-2.,  0.]]]), True)
    """

    def __init__(self, base: DiagonalGaussian, flow: Flow) -> None:
        self.base, self.flow = base, flow
        self.noise_dim = base.noise_dim

    def rsample_with_log_prob(self, noise: Points) -> Drawn:
        z0, log_q0 = self.base.rsample_with_log_prob(noise)
        z, log_det = self.flow(z0)
        return z, log_q0 - log_det

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        """log q(z | x) of any z, at the cost of the flow's inverse."""
        z0, log_det = self.flow.inverse(z)
        return self.base.log_prob(z0) - log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q || N(0, I)), that of the base, because an orthogonal flow keeps N(0, I). TypeError: it is not one."""
        if not self.flow.orthogonal:
            raise TypeError(f"{type(self.flow).__name__} is not orthogonal: KL(q || p) has no closed form")
        return self.base.kl_to_prior()

    def parameters(self) -> tuple[Tensor, ...]:
        """The base's parameters, then the flow's."""
        return *self.base.parameters(), *self.flow.parameters()

    def with_parameters(self, *parameters: Tensor) -> "FlowedGaussian":
        mu, log_variance, *flow = parameters
        return FlowedGaussian(DiagonalGaussian(mu, log_variance), self.flow.with_parameters(*flow))

    def detach(self) -> "FlowedGaussian":
        return FlowedGaussian(self.base.detach(), self.flow.detach())


def is_gaussian(q: Posterior) -> bool:
    """True if q(z | x) is a Gaussian, whose samples are linear in their noise.

    >>> import torch
    >>> is_gaussian(DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2)))
    True
    """
    if isinstance(q, FlowedGaussian):
        return q.flow.orthogonal
    return isinstance(q, DiagonalGaussian | CholeskyGaussian | PrecisionGaussian)
