"""What an importance-sampled log-likelihood is drawn from: the model's own posterior, or one found at its decoder.

Scored each by its own posterior, models are compared together with their estimators. The Laplace approximation at
a model's own decoder is the same estimator for all of them.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlae.distributions.laplace import Modes, find_modes, laplace
from vlae.distributions.posteriors import (
    FamilyMember,
    Posterior,
    PrecisionGaussian,
    PrecisionStudentT,
    family_member,
)
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

PROPOSALS = {
    "own": "the model's q(z | x)",
    "laplace": "a Gaussian at the mode of p(z | x), of precision J'VJ + I",
    "student_t": "the same with the tails of a Student t with 10 degrees of freedom",
    "mixture": "half own, half laplace: no weight is more than twice its weight by either",
}
"""Every name that ``evaluate.proposals`` may hold, and what it is."""
DEGREES = 10
"""Of freedom of student_t: the noise that a sample of it takes beside latent_dim; no other takes more."""


def propose(
    name: str, model: LatentVariableModel, x: Float[Tensor, "batch pixels"], noise: Noise
) -> tuple[Posterior, Modes | None]:
    """The proposal of that name for each image, and how the search for its mode ended, if there was one.

    The search begins where the model's own posterior takes the noise 0 to, which is its mean where it is Gaussian.
    """
    own = model.posterior(x, noise)
    if name == "own":
        return own, None
    zero = torch.zeros(1, len(x), own.noise_dim, dtype=x.dtype, device=x.device)
    modes = find_modes(model.output, model.decoder, x, own.rsample_with_log_prob(zero)[0][0])
    gaussian = laplace(model.output.likelihood(model.decoder, x), model.decoder, modes.z)
    if name == "laplace":
        return gaussian, modes
    if name == "student_t":
        return PrecisionStudentT(gaussian, DEGREES), modes
    if name == "mixture":
        return Mixture(family_member(own, "evaluate.proposals=[mixture]"), gaussian), modes
    raise ValueError(f"proposal: expected one of {', '.join(PROPOSALS)}, got {name!r}")


class Mixture:
    """The defensive mixture (q_own + q_laplace) / 2 (Hesterberg 1995; Owen and Zhou 2000).

    Its density is at least half of either's, so its weights are at most twice theirs: where one of the two misses a
    part of p(z | x), the other one bounds the weights. The sign of one more number of noise chooses the component.
    """

    def __init__(self, own: FamilyMember, gaussian: PrecisionGaussian) -> None:
        self.own, self.gaussian = own, gaussian
        self._dim = max(own.noise_dim, gaussian.noise_dim)
        self.noise_dim = self._dim + 1

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch noise"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        eps, choice = noise.split([self._dim, 1], dim=-1)
        of_own = choice > 0
        own_z, own_log_q = self.own.rsample_with_log_prob(eps[..., : self.own.noise_dim])
        gaussian_z, gaussian_log_q = self.gaussian.rsample_with_log_prob(eps[..., : self.gaussian.noise_dim])
        z = torch.where(of_own, own_z, gaussian_z)
        # a sample's own density is known: that of a flow at a point given from outside may overflow
        log_own = torch.where(of_own[..., 0], own_log_q, self.own.log_prob(z))
        log_gaussian = torch.where(of_own[..., 0], self.gaussian.log_prob(z), gaussian_log_q)
        return z, torch.logaddexp(log_own, log_gaussian) - math.log(2)

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        return torch.logaddexp(self.own.log_prob(z), self.gaussian.log_prob(z)) - math.log(2)

    def parameters(self) -> tuple[Tensor, ...]:
        return *self.own.parameters(), *self.gaussian.parameters()

    def with_parameters(self, *parameters: Tensor) -> "Mixture":
        of_own = len(self.own.parameters())
        own = self.own.with_parameters(*parameters[:of_own])
        return Mixture(own, self.gaussian.with_parameters(*parameters[of_own:]))

    def detached(self) -> "Mixture":
        return Mixture(self.own.detached(), self.gaussian.detached())


def of_images(q: Posterior, chosen: Bool[Tensor, " batch"]) -> Posterior:
    """The same for the chosen images alone."""
    member = family_member(q, "evaluate.target_standard_error")
    return member.with_parameters(*(p[chosen] for p in member.parameters()))
