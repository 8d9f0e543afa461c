"""Calibration of posteriors on images drawn from the model, whose z is known.

If q(z | x) is the exact posterior, the region of highest density that holds a share m of q contains the true z for a
share m of the images; and the rank of the true z among draws of q is uniform (Talts, Betancourt, Simpson, Vehtari,
Gelman 2018).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import FamilyMember, Latent, Points, standard_normal_log_prob
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.log_weights import LogWeights
from vlae.estimation.proposed import DecoderGroup
from vlae.nn.networks import Decoder
from vlae.seeding import generator, image_noise

SAMPLES = 1000
"""Draws of each posterior."""

PerDraw = Float[Tensor, "samples batch"]


@torch.no_grad()
def simulate(
    output: OutputDistribution, decoder: Decoder, images: int, seed: int
) -> tuple[Float[Tensor, "images latent"], Float[Tensor, "images pixels"]]:
    """Pairs z ~ p(z), x ~ p(x | z), a function of (seed, image): each z is a sample of p(z | x).

    >>> from vlae.distributions import GaussianOutput
    >>> z, x = simulate(GaussianOutput(), Decoder.mlp(2, [8], 16), images=3, seed=0)
    >>> z.shape, x.shape
    (torch.Size([3, 2]), torch.Size([3, 16]))
    """
    weight = next(decoder.parameters())
    sources = [generator(weight.device, seed, "simulated", i) for i in range(images)]
    noise = image_noise(sources, weight.dtype)
    z = noise(1, decoder.latent_dim)[0]
    f = torch.cat([decoder(one) for one in z.split(1)])  # the bits of a row depend on how many there are
    return z, output.sample(f, noise(1, f.shape[-1])[0])


class Ranks(NamedTuple):
    """Where the true z lies in a posterior: two numbers per image, uniform in [0, 1] if it is exact."""

    mass: Float[Tensor, " batch"]
    """Share of the posterior at which the density is higher than at the true z."""
    rank: Float[Tensor, " batch"]
    """Share that lies below the true z along a direction drawn at random."""


def ranks(
    z: Points,
    density: PerDraw,
    log_w: PerDraw,
    true_z: Latent,
    true_density: Float[Tensor, " batch"],
    direction: Latent,
) -> Ranks:
    """Ranks of the true z among weighted draws z; ``density``: of the draws, by which they are ordered.

    >>> z = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(4, 1, 1)
    >>> found = ranks(z, -z[..., 0], torch.zeros(4, 1), torch.full((1, 1), 0.5), torch.tensor([-0.5]), torch.ones(1, 1))
    >>> found.mass.item(), found.rank.item()
    (0.25, 0.25)
    """
    share = log_w.softmax(0)
    below = (z * direction).sum(-1) < (true_z * direction).sum(-1)
    return Ranks((share * (density > true_density)).sum(0), (share * below).sum(0))


@torch.no_grad()
def ranks_under(group: DecoderGroup, q: FamilyMember, true_z: Latent) -> Ranks:
    """Ranks of the true z under q itself, with the densities of q."""
    eps = image_noise(group.sources("calibration own"), group.x.dtype)(SAMPLES, q.noise_dim)
    drawn = [q.rsample_with_log_prob(part) for part in eps.split(max(1, group.at_once // len(group.x)))]
    z, log_q = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return ranks(
        z, log_q, torch.zeros_like(log_q), true_z, q.log_prob(true_z.unsqueeze(0))[0], _direction(group)
    )


@torch.no_grad()
def weighted_ranks(group: DecoderGroup, q: StudentTMixture, true_z: Latent) -> tuple[Ranks, LogWeights]:
    """Ranks of the true z under p(z | x) as draws of q give it by their weights, and the weights."""
    source, log_likelihood = image_noise(group.sources("calibration"), group.x.dtype), group.scorer(group.x)
    drawn = []
    for eps in source(SAMPLES, q.noise_dim).split(max(1, group.at_once // len(group.x))):
        z, log_q = q.rsample_with_log_prob(eps)
        drawn.append((z, log_likelihood(z) + standard_normal_log_prob(z), log_q))
    z, log_joint, log_q = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    log_w = log_joint - log_q
    true = log_likelihood(true_z.unsqueeze(0))[0] + standard_normal_log_prob(true_z)
    return ranks(z, log_joint, log_w, true_z, true, _direction(group)), LogWeights.of(log_w)


def _direction(group: DecoderGroup) -> Latent:
    return image_noise(group.sources("direction"), group.x.dtype)(1, group.decoder.latent_dim)[0]
