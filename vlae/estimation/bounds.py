"""A lower and an upper bound of log p(x), by chains from a proposal to p(z | x) and back, see `vlae.estimation.ais`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import Latent
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.ais import AnnealingPath, run_chains, steps_of_pilot, temperatures
from vlae.estimation.annealed import FromProposal, path_from
from vlae.estimation.hamiltonian import PerChain, Points, State
from vlae.estimation.log_weights import LogWeights
from vlae.estimation.proposed import DecoderGroup
from vlae.seeding import Noise, image_noise

EQUILIBRATION = 20
"""Moves at p(z | x) itself before chains go back."""


@dataclass(frozen=True)
class Chains:
    """How chains go."""

    num_chains: int
    num_distributions: int
    num_leapfrog: int


@dataclass(frozen=True)
class Bounds:
    """Log-weights of the chains of some images, and their acceptance."""

    forward: LogWeights
    """E w = p(x): log mean w is a lower bound in expectation."""
    backward: LogWeights
    """E w = 1 / p(x): - log mean w is an upper bound in expectation, if the way back begins at samples of p(z | x)."""
    acceptance: Float[Tensor, " images"]


@torch.no_grad()
def bound(
    group: DecoderGroup,
    q: StudentTMixture,
    chains: Chains,
    exact: Latent | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Bounds:
    """Bounds of log p(x) for the images of a group, in nats.

    ``exact``: a sample of p(z | x) of each. Without it the chains' ends are drawn by their weights. From either, all
    chains move on at p(z | x) before they go back: that leaves exact samples exact, and lets the others forget.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.estimation.proposals.fitted import FIRST, fit
    >>> from vlae.nn.networks import Decoder
    >>> output, decoder, x = GaussianOutput(), Decoder.mlp(2, [8], 16), torch.randn(3, 16)
    >>> group = DecoderGroup(output, decoder, output.scorer(decoder), x, range(3), seed=0, name="doc", at_once=300)
    >>> found = bound(group, fit(group, FIRST), Chains(16, 20, 3))
    >>> bool((-found.backward.log_mean - found.forward.log_mean > -0.3).all())
    True
    """
    path = path_from(FromProposal(q), group, chains.num_chains, chains.num_leapfrog)
    betas = temperatures(chains.num_distributions)

    def noise(purpose: str) -> Noise:
        return image_noise(group.sources(f"bounds {purpose}"), group.x.dtype)

    steps = steps_of_pilot(path, betas, noise("pilot"), lambda share: progress(0.0))
    up, back = noise("forward"), noise("backward")
    state, moves = path.moves.state(path.sample(up)), len(betas) - 2
    log_w, acceptance, state = run_chains(
        path, betas, steps, state, path.noise_of(up, moves), lambda share: progress(0.5 * share)
    )
    start = resample(state.z, log_w, back) if exact is None else exact.expand_as(state.z)
    state = equilibrate(path, start, steps[-1], back)
    log_r, _, _ = run_chains(
        path,
        betas.flip(0),
        steps.flip(0),
        state,
        path.noise_of(back, moves),
        lambda share: progress(0.5 + 0.5 * share),
    )
    return Bounds(LogWeights.of(log_w), LogWeights.of(log_r), acceptance)


def resample(z: Points, log_w: PerChain, noise: Noise) -> Points:
    """As many of each image's points as it has, drawn by their weights at equal distances (systematic resampling)."""
    chains, images = log_w.shape
    start = torch.special.ndtr(noise(1, 1)[0, :, 0]).cpu().double()
    at = (torch.arange(chains).double() + start.unsqueeze(-1)) / chains
    edges = log_w.softmax(0).cumsum(0).T.contiguous()
    chosen = torch.searchsorted(edges, at).clamp(max=chains - 1).T.to(z.device)
    return z.gather(0, chosen.unsqueeze(-1).expand(chains, images, z.shape[-1]))


def equilibrate(path: AnnealingPath, z: Points, step: Float[Tensor, " batch"], noise: Noise) -> State:
    """The chains after EQUILIBRATION moves at p(z | x)."""
    state, root = path.moves.state(z), path.base.root(1.0)
    for eps in path.noise_of(noise, EQUILIBRATION):
        state, _ = path.moves.move((0.0, 1.0), root, step, state, eps)
    return state
