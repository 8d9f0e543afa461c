"""Annealed importance sampling with Hamiltonian moves: log p(x) from the decoder alone, without any q(z | x).

Chains go from the prior to p(z | x) through f_t(z) = p(z) p(x | z)^beta_t, 0 = beta_0 < ... < beta_T = 1, by one
transition that leaves f_t invariant for each 0 < t < T (Neal 2001; Wu, Burda, Salakhutdinov, Grosse 2017):

    log w = sum_{t=1}^T (beta_t - beta_{t-1}) log p(x | z_{t-1}),   E w = p(x),

so log mean w is a lower bound in expectation. The same sum along chains that begin at a sample of p(z | x) and go the
other way has E w = 1 / p(x), and -log mean w is an upper bound (Grosse, Ghahramani, Adams 2015).

E w holds for any transitions that are fixed before the chains start. So momenta may have the covariance
M_t = I + beta_t J'VJ, with the curvature at the mode of p(z | x), in whose metric all directions are about equally
wide; and a pilot run of other chains finds step sizes, which are then frozen. If chains adapted their own steps while
being weighted, E w would be biased.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlae.distributions.laplace import find_modes
from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import Images, Latent, standard_normal_log_prob
from vlae.estimation.log_weights import LogWeights
from vlae.estimation.per_image import Advance, Estimates, Report, check_finite, in_groups
from vlae.nn.networks import Decoder, largest_layer
from vlae.seeding import Noise, generator, image_noise

Points = Float[Tensor, "chains batch latent"]
"""One z, momentum or gradient per chain and image."""
PerChain = Float[Tensor, "chains batch"]
Betas = Float[Tensor, " distributions"]
"""Inverse temperatures, from 0 to 1 or back."""

CACHED_ROWS = 256
"""On a CPU, more rows (images x chains) at once are not faster."""
MAX_GROUP = 64
"""Most images at once, on any device: an interruption loses one group."""
NOISE_BLOCK = 50
"""Transitions whose noise is drawn at once. It defines an image's noise, so it is no setting."""
STEEPNESS = 4.0
"""Steepness of the sigmoid that spaces the temperatures (Wu et al. 2017)."""
PILOT_SHARE, SHORTEST_PILOT = 10, 50
"""The pilot run has a tenth of the distributions, and at least 50 if there are so many."""
ACCEPTANCE, GAIN, FIRST_STEP = 0.75, 0.2, 0.5
"""Target acceptance; change of the log step size per unit of acceptance above it; first step size."""
LONGEST_TRAJECTORY = math.pi / 2
"""A quarter of a Gaussian's period in its own metric, after which a trajectory has forgotten its start. A longer one
turns back, and returns to its start after a whole period."""


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
    betas = temperatures(result.num_distributions)

    def measure(group: range, progress: Advance) -> None:
        images = slice(group.start, group.stop)

        def noise(purpose: str) -> Noise:
            return image_noise([generator(x.device, seed, name, purpose, i) for i in group], x.dtype)

        target = Target(output, decoder, x[images], result.num_chains, result.num_leapfrog)
        start = None if exact is None else exact[images]
        log_w, acceptance = anneal_group(target, betas, start, noise, progress)
        weights = LogWeights(len(group), len(log_w))
        weights.add(log_w, torch.arange(len(group)))
        check_finite(weights.log_mean, group, "the annealed log-likelihood of image")
        sign = 1 if exact is None else -1
        result.put(images, log_likelihood=sign * weights.log_mean, acceptance=acceptance)
        result.put(images, standard_error=weights.standard_error, ess=weights.effective_sample_size)

    in_groups(result, group_size(decoder, x, result.num_chains, memory_budget), measure, report)
    return result


def anneal_group(
    target: "Target", betas: Betas, start: Latent | None, noise: Callable[[str], Noise], progress: Advance
) -> tuple[PerChain, Float[Tensor, " batch"]]:
    """log w of each chain and the mean acceptance, after a pilot run: up from the prior, or down from ``start``."""
    steps = adapt_steps(target, pilot_temperatures(betas), noise("pilot"), progress)
    steps = steps[torch.arange(len(betas)) * (len(steps) - 1) // (len(betas) - 1)]
    if start is None:
        return run_chains(target, betas, steps, None, noise("forward"), progress)
    return run_chains(target, betas.flip(0), steps.flip(0), start, noise("reverse"), progress)


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


@dataclass(frozen=True)
class MassMatrix:
    """The covariance of momenta, M(beta) = I + beta J'VJ = U (1 + beta h) U', for each image."""

    directions: Float[Tensor, "batch latent latent"]
    """U, in columns."""
    curvatures: Latent
    """h."""

    @classmethod
    def at_mode(cls, output: OutputDistribution, decoder: Decoder, x: Images) -> "MassMatrix":
        """J'VJ at the end of the search for the mode of p(z | x) that starts at the prior's mode."""
        modes = find_modes(output, decoder, x, x.new_zeros(len(x), decoder.latent_dim))
        P = output.likelihood(decoder, x).precision(decoder.linearise(modes.z))
        h, U = torch.linalg.eigh(P.cpu())  # not every device implements it
        return cls(U.to(x.device), (h - 1).clamp(min=0).to(x.device))  # negative by rounding only

    def root(self, beta: float) -> Float[Tensor, "batch latent latent"]:
        """S with S S' = M(beta)^-1."""
        return self.directions * (1 + beta * self.curvatures).rsqrt().unsqueeze(-2)


class Target:
    """p(z) p(x | z)^beta per image, for all its chains, by the short cuts of ``vlae.distributions.likelihood``."""

    def __init__(
        self, output: OutputDistribution, decoder: Decoder, x: Images, num_chains: int, num_leapfrog: int
    ) -> None:
        self.decoder, self.log_likelihood = decoder, output.scorer(decoder)(x)
        self.images, self.latent_dim = len(x), decoder.latent_dim
        self.num_chains, self.num_leapfrog = num_chains, num_leapfrog
        self.mass = MassMatrix.at_mode(output, decoder, x)
        self.likelihood = output.likelihood(decoder, x.expand(num_chains, *x.shape).flatten(0, 1))

    def gradient(self, z: Points) -> Points:
        """grad_z log p(x | z), without automatic differentiation."""
        return self.likelihood.gradient(self.decoder.linearise(z.flatten(0, 1))).view_as(z)

    def state(self, z: Points) -> "ChainState":
        """The chains at z."""
        return ChainState(z, self.log_likelihood(z), self.gradient(z))


class ChainState(NamedTuple):
    """Position of each chain, with the values there that the next transition needs."""

    z: Points
    log_likelihood: PerChain
    gradient: Points


def leapfrog(
    target: Target, beta: float, step: Float[Tensor, " batch"], z: Points, gradient: Points, p: Points
) -> tuple[Points, Points, Points]:
    """(z, gradient of log p(x | z), p) after the leapfrog steps of one trajectory.

    With p the momentum in units of its standard deviation, dz/dt = S p and dp/dt = S' grad log f_beta(z) keep the
    energy |p|^2/2 - log f_beta(z). Each step shears z by p or p by z, so volume is kept exactly; from -p the same
    steps lead back; the energy's error is O(step^2).
    """
    to_p = step.view(-1, 1, 1) * target.mass.root(beta)
    to_z = to_p.mT

    def times(v: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("cbi,bij->cbj", v, matrix)

    p = p + 0.5 * times(beta * gradient - z, to_p)
    for left in reversed(range(target.num_leapfrog)):
        z = z + times(p, to_z)
        gradient = target.gradient(z)
        p = p + (1.0 if left else 0.5) * times(beta * gradient - z, to_p)
    return z, gradient, p


def transition(
    target: Target,
    beta: float,
    step: Float[Tensor, " batch"],
    state: ChainState,
    noise: Float[Tensor, "chains batch noise"],
) -> tuple[ChainState, PerChain]:
    """A Hamiltonian move that leaves f_beta(z) = p(z) p(x | z)^beta invariant, and the probability that it is accepted.

    ``noise``: latent standard normal numbers for the momentum, two for the decision. The half sum of two squares is
    exponential, as is -log u of a uniform u. A move to where the energy is not finite is refused.
    """
    p, pair = noise.split([target.latent_dim, 2], dim=-1)
    z, gradient, end = leapfrog(target, beta, step, state.z, state.gradient, p)
    log_likelihood = target.log_likelihood(z)
    log_ratio = beta * (log_likelihood - state.log_likelihood) + (
        standard_normal_log_prob(z) + standard_normal_log_prob(end)
        - standard_normal_log_prob(state.z) - standard_normal_log_prob(p)
    )  # fmt: skip
    accepted: Bool[Tensor, "chains batch"] = -0.5 * pair.square().sum(-1) < log_ratio
    moved = ChainState(
        torch.where(accepted.unsqueeze(-1), z, state.z),
        torch.where(accepted, log_likelihood, state.log_likelihood),
        torch.where(accepted.unsqueeze(-1), gradient, state.gradient),
    )
    return moved, torch.exp(log_ratio.clamp(max=0)).nan_to_num(0.0)


def adapt_steps(
    target: Target, betas: Betas, noise: Noise, progress: Advance
) -> Float[Tensor, "distributions batch"]:
    """A step size for each temperature and image, adapted by chains that pass through all temperatures.

    After each transition log step += GAIN (mean acceptance - ACCEPTANCE), up to the longest useful trajectory.
    """
    longest = LONGEST_TRAJECTORY / target.num_leapfrog
    state = target.state(noise(target.num_chains, target.latent_dim))
    step = state.z.new_full((target.images,), min(FIRST_STEP, longest))
    steps = [step]
    for beta, eps in zip(betas[1:-1].tolist(), draw_noise(noise, target, len(betas) - 2), strict=True):
        if len(steps) % NOISE_BLOCK == 0:
            progress(0.0)
        state, acceptance = transition(target, beta, step, state, eps)
        step = (step * torch.exp(GAIN * (acceptance.mean(0) - ACCEPTANCE))).clamp(max=longest)
        steps.append(step)
    return torch.stack([*steps, step])


def run_chains(
    target: Target,
    betas: Betas,
    steps: Float[Tensor, "distributions batch"],
    start: Latent | None,
    noise: Noise,
    progress: Advance,
) -> tuple[PerChain, Float[Tensor, " batch"]]:
    """log w of each chain along ``betas``, up or down, and the mean acceptance; from samples of the prior or ``start``.

    log w is summed in float64 on the CPU, because not every device has float64.
    """
    first = noise(target.num_chains, target.latent_dim)
    state = target.state(first if start is None else start.expand_as(first))
    values, acceptances = [state.log_likelihood], []
    for eps in draw_noise(noise, target, len(betas) - 2):
        t = len(values)
        if t % NOISE_BLOCK == 0:
            progress(t / len(betas))
        state, acceptance = transition(target, betas[t].item(), steps[t], state, eps)
        values.append(state.log_likelihood)
        acceptances.append(acceptance.mean(0))
    log_w = torch.einsum("tcb,t->cb", torch.stack(values).cpu().double(), betas.diff())
    never = torch.full((target.images,), math.nan, dtype=torch.float64)
    return log_w, torch.stack(acceptances).mean(0).cpu().double() if acceptances else never


def draw_noise(
    noise: Noise, target: Target, transitions: int
) -> Iterator[Float[Tensor, "chains batch noise"]]:
    """The noise of each transition in turn."""
    for start in range(0, transitions, NOISE_BLOCK):
        block = min(NOISE_BLOCK, transitions - start)
        numbers = noise(block * target.num_chains, target.latent_dim + 2)
        yield from numbers.unflatten(0, (block, target.num_chains))


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
    f = decoder(z)
    return z, output.sample(f, noise(1, f.shape[-1])[0])
