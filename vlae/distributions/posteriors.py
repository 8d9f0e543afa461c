"""The distributions of the models: posteriors q(z | x) and output distributions p(x | z)."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlae.errors import NonFiniteError

LOG_2PI = math.log(2 * math.pi)


def standard_normal_log_prob(z: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes"]:
    """log N(z; 0, I)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


@runtime_checkable
class Posterior(Protocol):
    """q(z | x) for each image of a batch: a differentiable function of standard normal noise.

    A sample comes with its own log-density because an inverse autoregressive flow knows the density of its own
    sample in one pass, that of a foreign point only in latent_dim passes (docs/decisions/0002).
    """

    @property
    def noise_dim(self) -> int:
        """How many standard normal numbers one sample takes."""
        ...

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch noise"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        """z and log q(z | x)."""
        ...


@runtime_checkable
class FamilyMember(Posterior, Protocol):
    """A posterior that also knows its density at a foreign point, and its place in its family.

    What training by the ELBO does not need, and these do: DReG gradients hold the density's parameters constant;
    the amortisation gap (Cremer, Li, Duvenaud 2018) is between an image's member and the best one of the family.
    Laws: log_prob of an own sample is the log_q that came with it; with_parameters(*parameters()) is the same
    posterior; any real numbers in place of the parameters make a member, so gradient ascent on them stays valid.
    """

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        """log q(z | x) of any z."""
        ...

    def parameters(self) -> tuple[Tensor, ...]:
        """What distinguishes one image's member of the family from another's, each [batch, ...]."""
        ...

    def with_parameters(self, *parameters: Tensor) -> "FamilyMember":
        """The member with these parameters."""
        ...

    def detached(self) -> "FamilyMember":
        """The same distribution, held constant: no gradient reaches what it was computed from."""
        ...


@runtime_checkable
class ClosedFormKL(Posterior, Protocol):
    """A posterior whose divergence from the prior is known in closed form."""

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q(z | x) || N(0, I))."""
        ...


def family_member(posterior: Posterior, purpose: str) -> FamilyMember:
    """The posterior itself, known to be one. TypeError: it lacks what ``purpose`` needs of it."""
    if isinstance(posterior, FamilyMember):
        return posterior
    raise _lacking(posterior, FamilyMember, purpose)


def with_closed_form_kl(posterior: Posterior, purpose: str) -> ClosedFormKL:
    """The posterior itself, known to have one. TypeError: it lacks what ``purpose`` needs of it."""
    if isinstance(posterior, ClosedFormKL):
        return posterior
    raise _lacking(posterior, ClosedFormKL, purpose)


def _lacking(posterior: Posterior, protocol: type, purpose: str) -> TypeError:
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    missing = [name for name in methods if not hasattr(posterior, name)]
    return TypeError(
        f"{purpose} needs posteriors with {', '.join(methods)} (vlae.distributions.{protocol.__name__}); "
        f"{type(posterior).__name__} has no {', '.join(missing)}"
    )


class DiagonalGaussian:
    """N(mu, diag exp(log_variance)): the amortised posterior of the VAE (Kingma and Welling 2014)."""

    def __init__(
        self, mu: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]
    ) -> None:
        self.mu, self.log_variance = mu, log_variance
        self.noise_dim = mu.shape[-1]
        self._scale, self._log_det = torch.exp(0.5 * log_variance), 0.5 * log_variance.sum(-1)

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        return self.mu + self._scale * noise, standard_normal_log_prob(noise) - self._log_det

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        return standard_normal_log_prob((z - self.mu) / self._scale) - self._log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """1/2 sum(sigma^2 + mu^2 - 1 - log sigma^2) (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.log_variance.exp() + self.mu.square() - 1 - self.log_variance).sum(-1)

    def parameters(self) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        return self.mu, self.log_variance

    def with_parameters(self, *parameters: Float[Tensor, "batch latent"]) -> "DiagonalGaussian":
        return DiagonalGaussian(*parameters)

    def detached(self) -> "DiagonalGaussian":
        return DiagonalGaussian(*(p.detach() for p in self.parameters()))


def lower_triangular(
    log_diagonal: Float[Tensor, "batch latent"], below: Float[Tensor, "batch below"]
) -> Float[Tensor, "batch latent latent"]:
    """L from the logarithms of its diagonal and its entries below, row by row: any numbers make a Cholesky factor."""
    L = torch.diag_embed(log_diagonal.exp())
    rows, columns = _below_diagonal(L)
    L[:, rows, columns] = below
    return L


def triangle(
    L: Float[Tensor, "batch latent latent"],
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch below"]]:
    """The inverse of ``lower_triangular``."""
    rows, columns = _below_diagonal(L)
    return L.diagonal(dim1=-2, dim2=-1).log(), L[:, rows, columns]


def _below_diagonal(L: Float[Tensor, "batch latent latent"]) -> Int[Tensor, "2 below"]:
    """Rows and columns of the entries below the diagonal."""
    return torch.tril_indices(L.shape[1], L.shape[2], -1, device=L.device)


class CholeskyGaussian:
    """N(mu, L L') given by the Cholesky factor L of its covariance: z = mu + L eps.

    L comes as the logarithms of its diagonal and its entries below, so that nothing needs a bound.
    """

    def __init__(
        self,
        mu: Float[Tensor, "batch latent"],
        log_diagonal: Float[Tensor, "batch latent"],
        below: Float[Tensor, "batch below"],
    ) -> None:
        self.mu, self.log_diagonal, self.below = mu, log_diagonal, below
        self.noise_dim = mu.shape[-1]
        self.cholesky: Float[Tensor, "batch latent latent"] = lower_triangular(log_diagonal, below)
        self._half_log_det = log_diagonal.sum(-1)

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        offset = (noise.transpose(0, 1) @ self.cholesky.mT).transpose(0, 1)
        return self.mu + offset, standard_normal_log_prob(noise) - self._half_log_det

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        rows = (z - self.mu).transpose(0, 1)
        noise = torch.linalg.solve_triangular(self.cholesky.mT, rows, upper=True, left=False)
        return standard_normal_log_prob(noise.transpose(0, 1)) - self._half_log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """(tr LL' + |mu|^2 - k) / 2 - log det L."""
        trace = self.cholesky.square().sum((-2, -1))
        return 0.5 * (trace + self.mu.square().sum(-1) - self.noise_dim) - self._half_log_det

    def parameters(self) -> tuple[Tensor, ...]:
        return self.mu, self.log_diagonal, self.below

    def with_parameters(self, *parameters: Tensor) -> "CholeskyGaussian":
        return CholeskyGaussian(*parameters)

    def detached(self) -> "CholeskyGaussian":
        return CholeskyGaussian(*(p.detach() for p in self.parameters()))


def cholesky(precision: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """L with P = L L'. NonFiniteError where P has none: it is NaN, infinite, or not positive definite."""
    try:
        return torch.linalg.cholesky(precision)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise NonFiniteError("the precision of a posterior is not finite or not positive definite") from error


class PrecisionGaussian:
    """N(mu, P^-1) given by its precision P = L L'.

    z = mu + L^-T eps and log q = -|eps|^2 / 2 + sum log diag L - (k/2) log 2 pi: no inverse is formed, and L is
    computed once per image, not once per sample.
    """

    def __init__(
        self, mu: Float[Tensor, "batch latent"], precision: Float[Tensor, "batch latent latent"]
    ) -> None:
        self._set(mu, cholesky(precision))

    @classmethod
    def of_factor(
        cls, mu: Float[Tensor, "batch latent"], L: Float[Tensor, "batch latent latent"]
    ) -> "PrecisionGaussian":
        """The one whose precision has the Cholesky factor L."""
        self = cls.__new__(cls)
        self._set(mu, L)
        return self

    def _set(self, mu: Float[Tensor, "batch latent"], L: Float[Tensor, "batch latent latent"]) -> None:
        self.mu, self.cholesky = mu, L
        self.noise_dim = mu.shape[-1]
        self._half_log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        rows = noise.transpose(0, 1)
        offset = torch.linalg.solve_triangular(self.cholesky, rows, upper=False, left=False).transpose(0, 1)
        return self.mu + offset, standard_normal_log_prob(noise) + self._half_log_det

    def whiten(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch latent"]:
        """The noise L'(z - mu) that leads to z."""
        return ((z - self.mu).transpose(0, 1) @ self.cholesky).transpose(0, 1)

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        return standard_normal_log_prob(self.whiten(z)) + self._half_log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """(tr P^-1 + |mu|^2 - k) / 2 + log det L, with tr P^-1 = |L^-1|^2."""
        identity = torch.eye(self.noise_dim, dtype=self.mu.dtype, device=self.mu.device)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity, upper=False)
        trace = inverse.square().sum((-2, -1))
        return 0.5 * (trace + self.mu.square().sum(-1) - self.noise_dim) + self._half_log_det

    def parameters(self) -> tuple[Tensor, ...]:
        """mu, and L as the logarithms of its diagonal and its entries below."""
        return self.mu, *triangle(self.cholesky)

    def with_parameters(self, *parameters: Tensor) -> "PrecisionGaussian":
        mu, log_diagonal, below = parameters
        return PrecisionGaussian.of_factor(mu, lower_triangular(log_diagonal, below))

    def detached(self) -> "PrecisionGaussian":
        return PrecisionGaussian.of_factor(self.mu.detach(), self.cholesky.detach())


class PrecisionStudentT:
    """A multivariate Student t with location mu and scale matrix P^-1: heavier tails than the Gaussian's.

    The chi-squared variable of ``degrees`` freedom is a sum of squares, so a sample takes latent + degrees noise.
    """

    def __init__(self, gaussian: PrecisionGaussian, degrees: int = 10) -> None:
        self.mu, self.cholesky, self.degrees = gaussian.mu, gaussian.cholesky, degrees
        self.noise_dim = gaussian.noise_dim + degrees
        self._gaussian = gaussian

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch noise"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        latent = self.noise_dim - self.degrees
        eps, squares = noise.split([latent, self.degrees], dim=-1)
        t = eps / squares.square().mean(-1, keepdim=True).sqrt()
        z, log_gaussian = self._gaussian.rsample_with_log_prob(t)
        return z, log_gaussian + self._beside_gaussian(t)

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        return self._gaussian.log_prob(z) + self._beside_gaussian(self._gaussian.whiten(z))

    def parameters(self) -> tuple[Tensor, ...]:
        return self._gaussian.parameters()

    def with_parameters(self, *parameters: Tensor) -> "PrecisionStudentT":
        return PrecisionStudentT(self._gaussian.with_parameters(*parameters), self.degrees)

    def detached(self) -> "PrecisionStudentT":
        return PrecisionStudentT(self._gaussian.detached(), self.degrees)

    def _beside_gaussian(self, t: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        """log of this density over the Gaussian's, which has the determinant; what differs is the shape in |t|."""
        latent = t.shape[-1]
        power = 0.5 * (self.degrees + latent)
        constant = math.lgamma(power) - math.lgamma(0.5 * self.degrees)
        constant -= 0.5 * latent * math.log(0.5 * self.degrees)
        square = t.square().sum(-1)
        return 0.5 * square + constant - power * torch.log1p(square / self.degrees)


Flowed = tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]
"""Points, and log |det dz/dz_0| of the flow between z_0 and z."""
