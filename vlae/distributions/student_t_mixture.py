"""A mixture of multivariate Student t distributions, each given by the Cholesky factor of its precision."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions.posteriors import Drawn, Points


class StudentTMixture:
    """sum_m w_m t_nu(mu_m, P_m^-1) for each image, P_m = L_m L_m'; a `FamilyMember`.

    A sample takes latent numbers for its direction, nu for the chi-squared variable, and one that chooses a component.

    >>> one = StudentTMixture(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.eye(2).expand(1, 1, 2, 2), degrees=10)
    >>> one.noise_dim
    13
    >>> one.log_prob(torch.zeros(1, 1, 2)) + math.log(2 * math.pi)  # at its centre in two dimensions as a Gaussian's
    tensor([[0.]])
    """

    def __init__(
        self,
        log_weights: Float[Tensor, "batch components"],
        mu: Float[Tensor, "batch components latent"],
        cholesky: Float[Tensor, "batch components latent latent"],
        degrees: int,
    ) -> None:
        """log_weights: of any sum; -inf at the end where an image has fewer components than others."""
        self.log_weights, self.mu, self.cholesky = log_weights.log_softmax(-1), mu, cholesky
        self.degrees, self.latent_dim = degrees, mu.shape[-1]
        self.noise_dim = self.latent_dim + degrees + 1
        power, half = 0.5 * (degrees + self.latent_dim), 0.5 * self.latent_dim
        constant = math.lgamma(power) - math.lgamma(0.5 * degrees) - half * math.log(math.pi * degrees)
        log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        identity = torch.eye(self.latent_dim, dtype=mu.dtype, device=mu.device)
        self._inverse = torch.linalg.solve_triangular(cholesky, identity, upper=False)
        self._power, self._log_heights = power, self.log_weights + constant + log_det

    def rsample_with_log_prob(self, noise: Float[Tensor, "samples batch noise"]) -> Drawn:
        eps, squares, choice = noise.split([self.latent_dim, self.degrees, 1], dim=-1)
        t = eps / squares.square().mean(-1, keepdim=True).sqrt()
        rows = t.transpose(0, 1)
        if self.mu.shape[1] == 1:
            z = (self.mu + rows @ self._inverse[:, 0]).transpose(0, 1)
            return z, self._log_terms(t.square().sum(-1, keepdim=True)).squeeze(-1)
        of_components = (self.mu.unsqueeze(-2) + rows.unsqueeze(1) @ self._inverse).permute(2, 0, 1, 3)
        chosen = self._chosen(choice).unsqueeze(-1).expand(-1, -1, 1, self.latent_dim)
        z = of_components.gather(2, chosen).squeeze(2)
        return z, self.log_prob(z)

    def _chosen(self, choice: Float[Tensor, "samples batch 1"]) -> Tensor:
        """The component of each sample: the first whose cumulative weight is above the uniform number Phi(choice)."""
        uniform = torch.special.ndtr(choice)
        edges = self.log_weights.exp().cumsum(-1)[..., :-1]
        last = (self.components - 1).view(1, -1, 1)  # rounded weights may sum to less than a uniform number
        return (uniform > edges).sum(-1, keepdim=True).minimum(last)

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        white = self._whiten(z)
        return self._log_terms(white.square().sum(-1)).logsumexp(-1)

    def value_and_gradient(self, z: Points) -> tuple[Float[Tensor, "samples batch"], Points]:
        """log q(z) and its gradient: the mean of those of the components, weighted by their shares of q(z).

        d log t(z) / dz = -(nu + latent) / (nu + |u|^2) L u, with u = L'(z - mu).
        """
        white = self._whiten(z)
        square = white.square().sum(-1)
        terms = self._log_terms(square)
        pull = terms.softmax(-1) * (2 * self._power / (self.degrees + square))
        gradient = -torch.einsum("sbm,sbmj,bmij->sbi", pull, white, self.cholesky)
        return terms.logsumexp(-1), gradient

    def gradient(self, z: Points) -> Points:
        """The gradient of log q(z)."""
        return self.value_and_gradient(z)[1]

    def _whiten(self, z: Points) -> Float[Tensor, "samples batch components latent"]:
        rows = z.transpose(0, 1).unsqueeze(1) - self.mu.unsqueeze(-2)
        return (rows @ self.cholesky).permute(2, 0, 1, 3)

    def _log_terms(
        self, square: Float[Tensor, "samples batch components"]
    ) -> Float[Tensor, "samples batch components"]:
        return self._log_heights - self._power * torch.log1p(square / self.degrees)

    @property
    def components(self) -> Int[Tensor, " batch"]:
        """Number of components of each image."""
        return (self.log_weights > -math.inf).sum(-1)

    def select(self, images: Bool[Tensor, " batch"] | Int[Tensor, " chosen"]) -> "StudentTMixture":
        """The mixtures of these images, with as many components as any of them has."""
        chosen = self.with_parameters(*(p[images] for p in self.parameters()))
        most = int(chosen.components.max()) if len(chosen.mu) else 1
        return self.with_parameters(*(p[:, :most] for p in chosen.parameters()))

    def parameters(self) -> tuple[Tensor, ...]:
        return self.log_weights, self.mu, self.cholesky

    def with_parameters(self, *parameters: Tensor) -> "StudentTMixture":
        log_weights, mu, cholesky = parameters
        return StudentTMixture(log_weights, mu, cholesky, self.degrees)

    def detach(self) -> "StudentTMixture":
        return self.with_parameters(*(p.detach() for p in self.parameters()))
