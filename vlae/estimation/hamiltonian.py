"""Hamiltonian moves of many chains for each image at once, in the metric of the image's own posterior (Neal 2011).

A move leaves a product of powers of densities invariant: p(x, z) alone, or on the way from a base distribution to it
q(z)^(1 - beta) p(x, z)^beta. It keeps volume and leads back from its end, whatever the gradients are worth, so it is
exact in any metric and with any step size that were fixed before it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import Images, standard_normal_log_prob
from vlae.nn.networks import Decoder
from vlae.seeding import Noise

Points = Float[Tensor, "chains batch latent"]
"""One z, momentum or gradient per chain and image."""
PerChain = Float[Tensor, "chains batch"]
Root = Float[Tensor, "batch latent latent"]
"""S of each image, with S S' the covariance of z that the metric expects."""
Steps = Float[Tensor, " batch"]

NOISE_BLOCK = 50
"""Moves whose noise is drawn at once. It defines an image's noise, so it is no setting."""
FIRST_STEP = 0.5
"""The size of steps before they are adapted."""
LONGEST_TRAJECTORY = math.pi / 2
"""A quarter of a Gaussian's period in its own metric, after which a trajectory has forgotten its start. A longer one
turns back, and returns to its start after a whole period."""


@runtime_checkable
class Density(Protocol):
    """An unnormalised density of z for each image."""

    def value_and_gradient(self, z: Points) -> tuple[PerChain, Points]:
        """Its logarithm in nats, and the gradient of that with respect to z."""
        ...

    def gradient(self, z: Points) -> Points:
        """The gradient alone, which most steps need."""
        ...


class Joint:
    """p(x, z) of these images, for ``num_chains`` chains of each; without automatic differentiation.

    >>> from vlae.distributions import GaussianOutput
    >>> decoder, output, x = Decoder.mlp(2, [8], 16), GaussianOutput(), torch.randn(3, 16)
    >>> z = torch.randn(5, 3, 2, requires_grad=True)
    >>> value, gradient = Joint(output, decoder, x, num_chains=5).value_and_gradient(z)
    >>> right = output.log_prob(x, decoder(z)) + standard_normal_log_prob(z)
    >>> torch.allclose(value, right, atol=1e-4)
    True
    >>> torch.allclose(gradient, torch.autograd.grad(right.sum(), z)[0], atol=1e-4)
    True
    """

    def __init__(self, output: OutputDistribution, decoder: Decoder, x: Images, num_chains: int) -> None:
        self.decoder = decoder
        self.likelihood = output.likelihood(decoder, x.expand(num_chains, *x.shape).flatten(0, 1))

    def value_and_gradient(self, z: Points) -> tuple[PerChain, Points]:
        value, gradient = self.likelihood.value_and_gradient(self.decoder.linearise(z.flatten(0, 1)))
        return value.view(z.shape[:2]) + standard_normal_log_prob(z), gradient.view_as(z) - z

    def gradient(self, z: Points) -> Points:
        return self.likelihood.gradient(self.decoder.linearise(z.flatten(0, 1))).view_as(z) - z


class Prior:
    """N(z; 0, I)."""

    def value_and_gradient(self, z: Points) -> tuple[PerChain, Points]:
        return standard_normal_log_prob(z), -z

    def gradient(self, z: Points) -> Points:
        return -z


class State(NamedTuple):
    """Position of each chain, with the values there that the next move needs."""

    z: Points
    values: tuple[PerChain, ...]
    """log of each density, in nats."""
    gradients: tuple[Points, ...]

    def select(self, images: Bool[Tensor, " batch"]) -> "State":
        """The chains of these images."""
        values, gradients = ([v[:, images] for v in of_densities] for of_densities in self[1:])
        return State(self.z[:, images], tuple(values), tuple(gradients))


@dataclass(frozen=True)
class Moves:
    """Moves that leave the product of the ``densities`` to given powers invariant."""

    densities: Sequence[Density]
    num_leapfrog: int

    @property
    def longest_step(self) -> float:
        """The step size of the longest useful trajectory."""
        return LONGEST_TRAJECTORY / self.num_leapfrog

    def state(self, z: Points) -> State:
        """The chains at z."""
        values, gradients = zip(*(density.value_and_gradient(z) for density in self.densities), strict=True)
        return State(z, values, gradients)

    def trajectory(
        self, powers: Sequence[float], root: Root, step: Steps, state: State, p: Points
    ) -> tuple[State, Points]:
        """State and momentum at the end of a trajectory.

        With p the momentum in units of its standard deviation, dz/dt = S p and dp/dt = S' grad log f(z) keep the
        energy |p|^2/2 - log f(z). Each step shears z by p or p by z, so volume is kept exactly; from -p the same
        steps lead back; the energy's error is O(step^2).
        """
        to_p = step.view(-1, 1, 1) * root
        to_z = to_p.mT

        z = state.z
        p = p + 0.5 * times(product(powers, state.gradients), to_p)
        for _ in range(self.num_leapfrog - 1):
            z = z + times(p, to_z)
            p = p + times(product(powers, [density.gradient(z) for density in self.densities]), to_p)
        end = self.state(z + times(p, to_z))
        return end, p + 0.5 * times(product(powers, end.gradients), to_p)

    def move(
        self,
        powers: Sequence[float],
        root: Root,
        step: Steps,
        state: State,
        noise: Float[Tensor, "chains batch noise"],
    ) -> tuple[State, PerChain]:
        """The chains after a move, and the probability that it is accepted.

        ``noise``: latent standard normal numbers for the momentum, two for the decision. The half sum of two squares
        is exponential, as is -log u of a uniform u. A move to where the energy is not finite is refused.
        """
        p, pair = noise.split([state.z.shape[-1], 2], dim=-1)
        end, q = self.trajectory(powers, root, step, state, p)
        log_ratio = product(powers, end.values) - product(powers, state.values)
        log_ratio = log_ratio + standard_normal_log_prob(q) - standard_normal_log_prob(p)
        accepted: Bool[Tensor, "chains batch"] = -0.5 * pair.square().sum(-1) < log_ratio
        moved = State(
            torch.where(accepted.unsqueeze(-1), end.z, state.z),
            tuple(torch.where(accepted, *both) for both in zip(end.values, state.values, strict=True)),
            tuple(
                torch.where(accepted.unsqueeze(-1), *both)
                for both in zip(end.gradients, state.gradients, strict=True)
            ),
        )
        return moved, torch.exp(log_ratio.clamp(max=0)).nan_to_num(0.0)

    def adapt(self, step: Steps, acceptance: PerChain, gain: float, target: float) -> Steps:
        """log step += gain (mean acceptance - target), up to the longest useful step."""
        return (step * torch.exp(gain * (acceptance.mean(0) - target))).clamp(max=self.longest_step)


def covariance_root(cholesky: Root) -> Root:
    """S = L^-T, with S S' = P^-1, of the Cholesky factor L of a precision P = L L'.

    >>> covariance_root(2 * torch.eye(2)[None])
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    identity = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
    return torch.linalg.solve_triangular(cholesky.mT, identity, upper=True)


def product(powers: Sequence[float], of_densities: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
    """The sum of the densities' logarithms, or of their gradients, times their powers; a power of 0 leaves it out."""
    terms = [power * value for power, value in zip(powers, of_densities, strict=True) if power != 0]
    return sum(terms[1:], terms[0])


def times(v: Points, matrix: Float[Tensor, "batch latent latent"]) -> Points:
    """v' M of each chain, with the matrix of its image."""
    return torch.einsum("cbi,bij->cbj", v, matrix)


def noise_of_moves(
    noise: Noise, num_chains: int, latent_dim: int, moves: int
) -> Iterator[Float[Tensor, "chains batch noise"]]:
    """The noise of each move in turn."""
    for start in range(0, moves, NOISE_BLOCK):
        block = min(NOISE_BLOCK, moves - start)
        yield from noise(block * num_chains, latent_dim + 2).unflatten(0, (block, num_chains))
