"""Hamiltonian chains around modes of p(z | x), and the Gaussians that are fitted to their draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import LOG_2PI, Images, Latent, cholesky
from vlae.estimation.hamiltonian import (
    FIRST_STEP,
    Joint,
    Moves,
    State,
    covariance_root,
    noise_of_moves,
    times,
)
from vlae.estimation.modes import Components
from vlae.nn.networks import Decoder, largest_layer
from vlae.seeding import image_noise

CHAINS, LEAPFROG, BURN_IN, BLOCK = 16, 3, 8, 20
"""Chains of each component; leapfrog steps of a move; moves that adapt the step; moves between looks at the draws."""
LAYER_NUMBERS = 2**26
"""Most numbers in the widest layer of the chains that move together: 256 MiB in float32."""
GAIN, ACCEPTANCE = 0.5, 0.65
"""Change of the log step size in the burn-in, per unit of acceptance above the target; the target, at which chains of
trained Gaussian VAEs of MNIST have the most effective draws."""
SHRINKAGE = 2.0
"""Effective draws per latent dimension at which a covariance is half the draws', half their gradients'."""


@dataclass
class Fits:
    """A Gaussian fitted to p(z | x) around each component."""

    mu: Latent
    cholesky: Float[Tensor, "components latent latent"]
    """L of its precision L L'."""
    log_evidence: Float[Tensor, " components"]
    """Mean of log p(x, z) - log q(z) over the draws, in nats, with q the Gaussian: log of what the component
    contributes to p(x), too high by KL(p || q)."""
    effective: Float[Tensor, " components"]
    """Effective number of draws."""


@torch.no_grad()
def fit_components(
    output: OutputDistribution,
    decoder: Decoder,
    x: Images,
    components: Components,
    sources: Sequence[torch.Generator],
    draws: int,
    most_moves: int,
    progress: Callable[[], None] = lambda: None,
) -> Fits:
    """Fit a Gaussian to the draws of chains that start at the Laplace approximation of each component.

    A component moves in its own metric and with its own source of noise, until it has ``draws`` effective draws for
    each latent dimension, at most ``most_moves`` times. ``x`` are the images of the group.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.estimation.modes import find_components
    >>> decoder, output, x = Decoder.mlp(2, [8], 16), GaussianOutput(), torch.randn(3, 16)
    >>> modes = find_components(output, decoder, x, torch.zeros(1, 3, 2), most=1, scorer=output.scorer(decoder))
    >>> sources = [torch.Generator().manual_seed(i) for i in range(3)]
    >>> fit_components(output, decoder, x, modes, sources, draws=5, most_moves=20).mu.shape
    torch.Size([3, 2])
    """
    sums = DrawSums(components)

    def run(active: Int[Tensor, " active"]) -> None:
        state, step = None, torch.full_like(components.z[active, 0], FIRST_STEP)
        for start in range(0, most_moves, BLOCK):
            root = sums.root[active]
            moves = Moves([Joint(output, decoder, x[components.images[active]], CHAINS)], LEAPFROG)
            noise = image_noise([sources[i] for i in active.tolist()], x.dtype)
            burn_in = BURN_IN if start == 0 else 0
            if state is None:
                eps = noise(CHAINS, decoder.latent_dim)
                state = moves.state(components.z[active] + times(eps, root.mT))
            for t, eps in enumerate(noise_of_moves(noise, CHAINS, decoder.latent_dim, burn_in + BLOCK)):
                state, acceptance = moves.move((1.0,), root, step, state, eps)
                if t < burn_in:
                    step = moves.adapt(step, acceptance, GAIN, ACCEPTANCE)
                else:
                    sums.add(active, state)
            progress()
            left = sums.effective[active] < draws * decoder.latent_dim
            if not left.any():
                break
            active, step, state = active[left], step[left], state.select(left)

    together = max(1, LAYER_NUMBERS // (CHAINS * largest_layer(decoder)))
    for some in torch.arange(len(components.z), device=x.device).split(together):
        run(some)
    return sums.fits()


class DrawSums:
    """Sums over the draws of each component, in the coordinates u = L'(z - mode) of its Laplace approximation.

    >>> modes = Components(torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 2), torch.eye(2)[None])
    >>> sums = DrawSums(modes)
    >>> from vlae.distributions.posteriors import standard_normal_log_prob
    >>> for _ in range(200):
    ...     z = torch.randn(CHAINS, 1, 2)
    ...     sums.add(torch.tensor([0]), State(z, (standard_normal_log_prob(z),), (-z,)))
    >>> bool(sums.effective > 1000), bool((sums.fits().cholesky - torch.eye(2)).abs().max() < 0.2)
    (True, True)
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        number, latent = components.z.shape
        self.root = covariance_root(components.cholesky)
        zeros = components.z.new_zeros
        self._moves, self._values = zeros(number), zeros(number)
        self._chain_sums, self._chain_squares = (zeros(CHAINS, number, latent) for _ in range(2))
        self._products, self._gradients = zeros(number, latent, latent), zeros(number, latent, latent)

    def add(self, rows: Int[Tensor, " rows"], state: State) -> None:
        """One draw of every chain of the components ``rows``, with log p(x, z) and its gradient there."""
        (log_joint,), (gradient,) = state.values, state.gradients
        u = times(state.z - self.components.z[rows], self.components.cholesky[rows])
        g = times(gradient, self.root[rows])
        self._moves[rows] += 1
        self._values[rows] += log_joint.mean(0)
        self._gradients[rows] += torch.einsum("cri,crj->rij", g, g) / CHAINS
        self._chain_sums[:, rows] += u
        self._chain_squares[:, rows] += u.square()
        self._products[rows] += torch.einsum("cri,crj->rij", u, u) / CHAINS

    @property
    def effective(self) -> Float[Tensor, " components"]:
        """Effective number of draws: by how much less the chains' means vary than single draws, averaged over
        dimensions; at most their number."""
        n = self._moves.unsqueeze(-1)
        means = self._chain_sums / n
        within = (self._chain_squares / n - means.square()).mean((0, 2))
        between = means.var(0).mean(-1)
        return CHAINS * (within / between.clamp(min=1e-30)).clamp(max=self._moves)

    def fits(self) -> Fits:
        """The Gaussians with mean and covariance of the draws, which is shrunk by their effective number.

        Towards the inverse of the mean of g g', with g the gradient of log p(x, z): it is the covariance if p(z | x) is
        Gaussian, from few draws, because they vary together with their gradients.
        """
        n = self._moves.unsqueeze(-1)
        mean = self._chain_sums.mean(0) / n
        found = self._products / n.unsqueeze(-1) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        latent = mean.shape[-1]
        effective = self.effective
        share = (effective / (effective + SHRINKAGE * latent)).view(-1, 1, 1)
        eye = torch.eye(latent, dtype=mean.dtype, device=mean.device)
        covariance = share * found + (1 - share) * self._of_gradients(n.unsqueeze(-1))  # of u
        R = cholesky(covariance)
        inverse = torch.linalg.solve_triangular(R, eye, upper=False)
        half = inverse @ self.components.cholesky.mT  # the precision of z is half' half
        L = cholesky(half.mT @ half)
        mu = self.components.z + torch.einsum("rij,rj->ri", self.root, mean)
        mean_square = (inverse @ found @ inverse.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        log_q = L.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * (mean_square + latent * LOG_2PI)
        return Fits(mu, L, self._values / self._moves - log_q, effective)

    def _of_gradients(self, moves: Tensor) -> Float[Tensor, "components latent latent"]:
        """The inverse of the mean of g g'; the identity, Laplace's covariance, counts as one draw per dimension."""
        latent = self._gradients.shape[-1]
        eye = torch.eye(latent, dtype=moves.dtype, device=moves.device)
        draws = CHAINS * moves
        L = cholesky((draws * self._gradients / moves + latent * eye) / (draws + latent))
        return torch.cholesky_inverse(L.cpu()).to(L.device)  # not every device implements it
