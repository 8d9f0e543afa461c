"""Annealed importance sampling with Hamiltonian moves: log p(x) from the decoder alone, without any q(z | x).

Chains go from a base distribution to p(z | x) through f_t(z) = base(z)^(1 - beta_t) p(x, z)^beta_t, with
0 = beta_0 < ... < beta_T = 1, by one move that leaves f_t invariant for each 0 < t < T (Neal 2001; Wu, Burda,
Salakhutdinov, Grosse 2017):

    log w = sum_{t=1}^T (beta_t - beta_{t-1}) (log p(x, z_{t-1}) - log base(z_{t-1})),   E w = p(x),

so log mean w is a lower bound in expectation. The same sum along chains that begin at a sample of p(z | x) and go the
other way has E w = 1 / p(x), and -log mean w is an upper bound (Grosse, Ghahramani, Adams 2015). The base is the prior,
so that no q(z | x) takes part, or a proposal, from which the way is short.

E w holds for any moves that are fixed before the chains start. So momenta may have a covariance in whose metric all
directions are about equally wide; and a pilot run of other chains finds step sizes, which are then frozen. If chains
adapted their own steps while being weighted, E w would be biased.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.laplace import find_modes
from vlae.distributions.outputs import OutputDistribution, Scorer
from vlae.distributions.posteriors import Images, Latent, standard_normal_log_prob
from vlae.estimation.hamiltonian import (
    FIRST_STEP,
    NOISE_BLOCK,
    Density,
    Joint,
    Moves,
    PerChain,
    Points,
    Prior,
    Root,
    State,
    noise_of_moves,
)
from vlae.estimation.log_weights import LogWeights
from vlae.estimation.per_image import Advance, Estimates, Report, check_finite, in_groups
from vlae.nn.networks import Decoder, largest_layer
from vlae.seeding import Noise, generator, image_noise

Betas = Float[Tensor, " distributions"]
"""Inverse temperatures, from 0 to 1 or back."""

CACHED_ROWS = 256
"""On a CPU, more rows (images x chains) at once are not faster."""
MAX_GROUP = 64
"""Most images at once, on any device: an interruption loses one group."""
STEEPNESS = 4.0
"""Steepness of the sigmoid that spaces the temperatures (Wu et al. 2017)."""
PILOT_SHARE, SHORTEST_PILOT = 10, 50
"""The pilot run has a tenth of the distributions, and at least 50 if there are so many."""
GAIN, ACCEPTANCE = 0.2, 0.75
"""Change of the log step size per unit of acceptance above the target; the target."""


@dataclass
class Annealed(Estimates):
    """Estimates of log p(x) by annealed importance sampling, in nats per image."""

    num_chains: int
    num_distributions: int
    """T: the intermediate ones and the last."""
    num_leapfrog: int
    log_likelihood: Float[Tensor, " images"]
    """log mean w over the chains; of reversed chains -log mean w."""
    standard_error: Float[Tensor, " images"]
    """Standard error of that image's own estimate, by the delta method."""
    ess: Float[Tensor, " images"]
    """Effective number of chains (sum w)^2 / sum w^2."""
    acceptance: Float[Tensor, " images"]
    """Mean over all transitions."""


@torch.no_grad()
def anneal(
    output: OutputDistribution,
    decoder: Decoder,
    x: Float[Tensor, "images pixels"],
    result: Annealed,
    *,
    memory_budget: int,
    seed: int,
    name: str = "ais",
    exact: Float[Tensor, "images latent"] | None = None,
    report: Report = lambda images: None,
) -> Annealed:
    """log p(x) of the images that are not done; reversed chains begin at ``exact``, a sample of p(z | x) of each.

    Image i's noise is a function of (seed, name, i) alone. So is its result except for rounding, which depends on the
    size of its group and is magnified by the moves: invisible in float64; in float32 it may change a number by a part
    of its standard error. ``report``, see ``vlae.estimation.per_image``, is called after every block of transitions.
    ``memory_budget`` in MiB, for at least one image's chains.
    NonFiniteError: an estimate is NaN or infinite.

    >>> from vlae.distributions import GaussianOutput
    >>> decoder, x = Decoder.mlp(2, [8], 16), torch.randn(3, 16)
    >>> result = Annealed.empty(3, num_chains=4, num_distributions=10, num_leapfrog=2)
    >>> anneal(GaussianOutput(), decoder, x, result, memory_budget=64, seed=0).log_likelihood.shape
    torch.Size([3])
    """
    betas, scorer = temperatures(result.num_distributions), output.scorer(decoder)

    def measure(group: range, progress: Advance) -> None:
        images = slice(group.start, group.stop)

        def noise(purpose: str) -> Noise:
            return image_noise([generator(x.device, seed, name, purpose, i) for i in group], x.dtype)

        batch = x[images]
        path = AnnealingPath(
            from_prior(output, decoder, batch, scorer),
            Joint(output, decoder, batch, result.num_chains),
            scorer(batch),
            result.num_chains,
            result.num_leapfrog,
        )
        start = None if exact is None else exact[images]
        log_w, acceptance = anneal_group(path, betas, start, noise, progress)
        weights = LogWeights.of(log_w)
        check_finite(weights.log_mean, group, "the annealed log-likelihood of image")
        sign = 1 if exact is None else -1
        result.put(images, log_likelihood=sign * weights.log_mean, acceptance=acceptance)
        result.put(images, standard_error=weights.standard_error, ess=weights.effective_sample_size)

    in_groups(result, group_size(decoder, x, result.num_chains, memory_budget), measure, report)
    return result


def anneal_group(
    path: "AnnealingPath",
    betas: Betas,
    start: Latent | Points | None,
    noise: Callable[[str], Noise],
    progress: Advance,
) -> tuple[PerChain, Float[Tensor, " batch"]]:
    """log w of each chain and the mean acceptance, after a pilot run: up from the base, or down from ``start``."""
    steps = steps_of_pilot(path, betas, noise("pilot"), progress)
    source = noise("forward" if start is None else "reverse")
    first = path.sample(source)
    if start is not None:
        first, betas, steps = start.expand_as(first), betas.flip(0), steps.flip(0)
    moves = path.noise_of(source, len(betas) - 2)
    log_w, acceptance, _ = run_chains(path, betas, steps, path.moves.state(first), moves, progress)
    return log_w, acceptance


def steps_of_pilot(
    path: "AnnealingPath", betas: Betas, noise: Noise, progress: Advance
) -> Float[Tensor, "distributions batch"]:
    """A step size for each temperature and image, found by other chains at fewer temperatures."""
    steps = adapt_steps(path, pilot_temperatures(betas), noise, progress)
    return steps[torch.arange(len(betas)) * (len(steps) - 1) // (len(betas) - 1)]


def group_size(
    decoder: Decoder, x: Float[Tensor, "images pixels"], num_chains: int, memory_budget: int
) -> int:
    """Images at once: half a dozen arrays as wide as the widest layer have to fit."""
    rows = memory_budget * 2**20 // (6 * max(x.shape[1], largest_layer(decoder)) * x.element_size())
    if x.device.type == "cpu":
        rows = min(rows, CACHED_ROWS)
    return max(1, min(MAX_GROUP, rows // num_chains))


def temperatures(num_distributions: int) -> Betas:
    """beta_0 = 0 to beta_T = 1, T = ``num_distributions``: a sigmoid, closest together at both ends.

    >>> temperatures(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    s = torch.sigmoid(torch.linspace(-STEEPNESS, STEEPNESS, num_distributions + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def pilot_temperatures(betas: Betas) -> Float[Tensor, " fewer"]:
    """The temperatures of the pilot run."""
    distributions = len(betas) - 1
    return temperatures(min(distributions, max(SHORTEST_PILOT, distributions // PILOT_SHARE)))


@runtime_checkable
class Base(Protocol):
    """The distribution that chains start from, for each image."""

    @property
    def density(self) -> Density:
        """Its density, normalised."""
        ...

    @property
    def noise_dim(self) -> int:
        """Number of standard normal numbers that one sample takes."""
        ...

    def sample(self, noise: Float[Tensor, "chains batch noise"]) -> Points:
        """z of each chain."""
        ...

    def root(self, beta: float) -> Root:
        """The metric of moves at this temperature."""
        ...


@dataclass(frozen=True)
class FromPrior:
    """The prior as the base. Momenta have the covariance M(beta) = I + beta J'VJ = U (1 + beta h) U' of each image."""

    directions: Float[Tensor, "batch latent latent"]
    """U, in columns."""
    curvatures: Latent
    """h."""
    density: Density

    @property
    def noise_dim(self) -> int:
        return self.directions.shape[-1]

    def sample(self, noise: Points) -> Points:
        return noise

    def root(self, beta: float) -> Root:
        """S with S S' = M(beta)^-1."""
        return self.directions * (1 + beta * self.curvatures).rsqrt().unsqueeze(-2)


def from_prior(output: OutputDistribution, decoder: Decoder, x: Images, scorer: Scorer) -> FromPrior:
    """The prior, with J'VJ at the end of the search for the mode of p(z | x) that starts at the prior's mode."""
    modes = find_modes(output, decoder, x, x.new_zeros(len(x), decoder.latent_dim), scorer=scorer)
    P = output.likelihood(decoder, x).precision(decoder.linearise(modes.z))
    h, U = torch.linalg.eigh(P.cpu())  # not every device implements it
    return FromPrior(U.to(x.device), (h - 1).clamp(min=0).to(x.device), Prior())  # negative by rounding only


@dataclass(frozen=True)
class AnnealingPath:
    """The way from a base distribution to p(x, z), for all chains of some images."""

    base: Base
    joint: Joint
    log_likelihood: Callable[[Tensor], Tensor]
    """log p(x | z) of each chain, in all its digits."""
    num_chains: int
    num_leapfrog: int

    @property
    def moves(self) -> Moves:
        """Moves that leave base^(1 - beta) joint^beta invariant."""
        return Moves((self.base.density, self.joint), self.num_leapfrog)

    def sample(self, noise: Noise) -> Points:
        """A sample of the base for each chain."""
        return self.base.sample(noise(self.num_chains, self.base.noise_dim))

    def log_ratio(self, state: State) -> PerChain:
        """log p(x, z) - log base(z)."""
        return self.log_likelihood(state.z) + standard_normal_log_prob(state.z) - state.values[0]

    def noise_of(self, noise: Noise, moves: int) -> Iterator[Tensor]:
        """The noise of each move in turn."""
        return noise_of_moves(noise, self.num_chains, self.joint.decoder.latent_dim, moves)


def adapt_steps(
    path: AnnealingPath, betas: Betas, noise: Noise, progress: Advance
) -> Float[Tensor, "distributions batch"]:
    """A step size for each temperature and image, adapted by chains that pass through all temperatures."""
    moves = path.moves
    state = moves.state(path.sample(noise))
    step = state.z.new_full((state.z.shape[1],), min(FIRST_STEP, moves.longest_step))
    steps = [step]
    for beta, eps in zip(betas[1:-1].tolist(), path.noise_of(noise, len(betas) - 2), strict=True):
        if len(steps) % NOISE_BLOCK == 0:
            progress(0.0)
        state, acceptance = moves.move((1 - beta, beta), path.base.root(beta), step, state, eps)
        step = moves.adapt(step, acceptance, GAIN, ACCEPTANCE)
        steps.append(step)
    return torch.stack([*steps, step])


def run_chains(
    path: AnnealingPath,
    betas: Betas,
    steps: Float[Tensor, "distributions batch"],
    state: State,
    noise: Iterable[Tensor],
    progress: Advance,
) -> tuple[PerChain, Float[Tensor, " batch"], State]:
    """log w of each chain from ``state`` along ``betas``, up or down, the mean acceptance, and the last state.

    ``noise`` of each move. log w is summed in float64 on the CPU, because not every device has float64.
    """
    moves, values, acceptances = path.moves, [path.log_ratio(state)], []
    for eps in noise:
        t = len(values)
        if t % NOISE_BLOCK == 0:
            progress(t / len(betas))
        beta = betas[t].item()
        state, acceptance = moves.move((1 - beta, beta), path.base.root(beta), steps[t], state, eps)
        values.append(path.log_ratio(state))
        acceptances.append(acceptance.mean(0))
    log_w = torch.einsum("tcb,t->cb", torch.stack(values).cpu().double(), betas.diff())
    never = torch.full((state.z.shape[1],), math.nan, dtype=torch.float64)
    return log_w, torch.stack(acceptances).mean(0).cpu().double() if acceptances else never, state
