"""mixture: half own, half laplace, so that no weight is more than twice its weight by either."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.laplace import Modes
from vlae.distributions.posteriors import (
    Drawn,
    FamilyMember,
    Images,
    Points,
    Posterior,
    PrecisionGaussian,
    require_family_member,
)
from vlae.estimation.proposals import laplace
from vlae.models.base import LatentVariableModel

NEEDS_DENSITY = True
"""The model's q(z | x) must have a density at any z: be a ``FamilyMember``."""


def propose(model: LatentVariableModel, x: Images, own: Posterior) -> tuple[Posterior, Modes | None]:
    """The defensive mixture. TypeError: ``own`` has no density at a given z."""
    gaussian, modes = laplace.propose(model, x, own)
    return Mixture(require_family_member(own, "evaluate.proposals=[mixture]"), gaussian), modes


class Mixture:
    """The defensive mixture (q_own + q_laplace) / 2 (Hesterberg 1995; Owen and Zhou 2000).

    Its density is at least half of either's, so its weights are at most twice theirs: where one of the two misses a
    part of p(z | x), the other one bounds the weights. The sign of one more number of noise chooses the component.
    """

    def __init__(self, own: FamilyMember, gaussian: PrecisionGaussian) -> None:
        self.own, self.gaussian = own, gaussian
        self._dim = max(own.noise_dim, gaussian.noise_dim)
        self.noise_dim = self._dim + 1

    def rsample_with_log_prob(self, noise: Float[Tensor, "samples batch noise"]) -> Drawn:
        eps, choice = noise.split([self._dim, 1], dim=-1)
        of_own = choice > 0
        own_z, own_log_q = self.own.rsample_with_log_prob(eps[..., : self.own.noise_dim])
        gaussian_z, gaussian_log_q = self.gaussian.rsample_with_log_prob(eps[..., : self.gaussian.noise_dim])
        z = torch.where(of_own, own_z, gaussian_z)
        # a sample's own density is known: that of a flow at a point given from outside may overflow
        log_own = torch.where(of_own[..., 0], own_log_q, self.own.log_prob(z))
        log_gaussian = torch.where(of_own[..., 0], self.gaussian.log_prob(z), gaussian_log_q)
        return z, torch.logaddexp(log_own, log_gaussian) - math.log(2)

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        return torch.logaddexp(self.own.log_prob(z), self.gaussian.log_prob(z)) - math.log(2)

    def parameters(self) -> tuple[Tensor, ...]:
        return *self.own.parameters(), *self.gaussian.parameters()

    def with_parameters(self, *parameters: Tensor) -> "Mixture":
        of_own = len(self.own.parameters())
        own = self.own.with_parameters(*parameters[:of_own])
        return Mixture(own, self.gaussian.with_parameters(*parameters[of_own:]))

    def detach(self) -> "Mixture":
        return Mixture(self.own.detach(), self.gaussian.detach())
