"""Annealing from a proposal to p(z | x), as a proposal itself: each sample is the end of a chain."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import Drawn, cholesky, standard_normal_log_prob
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.ais import AnnealingPath, Base, from_prior, run_chains, steps_of_pilot, temperatures
from vlae.estimation.hamiltonian import Joint, Points, Root, covariance_root
from vlae.estimation.proposed import DecoderGroup
from vlae.seeding import image_noise

LEAPFROG, PILOT_CHAINS = 3, 16
"""Leapfrog steps of a move; chains that find step sizes."""
FROM_PRIOR = 30
"""Distributions on the way from the prior to a mode."""


@dataclass(frozen=True)
class FromProposal:
    """A mixture of Student t as the base, with the mean precision of its components as the metric."""

    density: StudentTMixture

    @property
    def noise_dim(self) -> int:
        return self.density.noise_dim

    def sample(self, noise: Float[Tensor, "chains batch noise"]) -> Points:
        return self.density.rsample_with_log_prob(noise)[0]

    def root(self, beta: float) -> Root:
        """The same at every temperature: near the end of the way is no other shape than at its beginning."""
        return self._root

    @cached_property
    def _root(self) -> Root:
        q = self.density
        P = torch.einsum("bm,bmij,bmkj->bik", q.log_weights.exp(), q.cholesky, q.cholesky)
        return covariance_root(cholesky(P))


def path_from(base: Base, group: DecoderGroup, num_chains: int, num_leapfrog: int) -> AnnealingPath:
    """The way from the base to p(x, z) for the images of a group."""
    joint = Joint(group.output, group.decoder, group.x, num_chains)
    return AnnealingPath(base, joint, group.scorer(group.x), num_chains, num_leapfrog)


def annealing_noise_dim(q: StudentTMixture, distributions: int) -> int:
    """Standard normal numbers that a sample of `AnnealedProposal` takes."""
    return q.noise_dim + (distributions - 1) * (q.latent_dim + 2)


class AnnealedProposal:
    """Ends of chains from q, with log p(x, z) - log w in place of their log-density, so that their weight is w.

    E w = p(x) as in annealed importance sampling, which this is (Neal 2001).
    """

    def __init__(self, group: DecoderGroup, q: StudentTMixture, distributions: int) -> None:
        """distributions: the intermediate ones and the last. Step sizes are found by chains with noise of their own."""
        self.group, self.q, self.base = group, q, FromProposal(q)
        self.betas, self.noise_dim = temperatures(distributions), annealing_noise_dim(q, distributions)
        noise = image_noise(group.sources("annealing steps"), group.x.dtype)
        self.steps = steps_of_pilot(
            self._path(PILOT_CHAINS), self.betas, noise, lambda share: group.progress()
        )

    def rsample_with_log_prob(self, noise: Float[Tensor, "samples batch noise"]) -> Drawn:
        first, rest = noise.split([self.q.noise_dim, self.noise_dim - self.q.noise_dim], dim=-1)
        path = self._path(len(noise))
        moves = rest.unflatten(-1, (len(self.betas) - 2, -1)).unbind(-2)
        state = path.moves.state(self.base.sample(first))
        log_w, _, state = run_chains(
            path, self.betas, self.steps, state, moves, lambda share: self.group.progress()
        )
        log_joint = path.log_likelihood(state.z) + standard_normal_log_prob(state.z)
        return state.z, log_joint - log_w.to(log_joint)

    def _path(self, chains: int) -> AnnealingPath:
        return path_from(self.base, self.group, chains, LEAPFROG)


@torch.no_grad()
def ends_from_prior(group: DecoderGroup, chains: int) -> Points:
    """Ends of short annealing from the prior, [chains, batch, latent]: they come to modes that no search has led to."""
    base = from_prior(group.output, group.decoder, group.x, group.scorer)
    path = path_from(base, group, chains, LEAPFROG)
    noise = image_noise(group.sources("annealing from the prior"), group.x.dtype)
    betas = temperatures(FROM_PRIOR)
    steps = steps_of_pilot(path, betas, noise, lambda share: group.progress())
    moves = path.noise_of(noise, FROM_PRIOR - 1)
    state = path.moves.state(path.sample(noise))
    return run_chains(path, betas, steps, state, moves, lambda share: group.progress())[2].z
