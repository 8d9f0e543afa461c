"""Posteriors q(z | x): the protocols, and the Gaussians and the Student t that models and estimators use."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlae.errors import NonFiniteError

LOG_2PI = math.log(2 * math.pi)
Images = Float[Tensor, "batch pixels"]
"""A batch of images in model space."""
Latent = Float[Tensor, "batch latent"]
"""One z, or one parameter, per image."""
Points = Float[Tensor, "samples batch latent"]
"""One z per sample and image."""
Drawn = tuple[Points, Float[Tensor, "samples batch"]]
"""z, and log q(z | x) in nats."""


def standard_normal_log_prob(z: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes"]:
    """log N(z; 0, I), in nats.

    >>> standard_normal_log_prob(torch.zeros(5, 2)) + math.log(2 * math.pi)
    tensor([0., 0., 0., 0., 0.])
    """
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


@runtime_checkable
class Posterior(Protocol):
    """q(z | x) for each image of a batch: a differentiable function of standard normal noise.

    A sample comes with its own log-density because an inverse autoregressive flow knows the density of its own
    sample in one pass, that of a foreign point only in latent_dim passes (docs/decisions/0002).

    Any class with these two members is one, such as a point mass with a little noise:

    >>> class Narrow:
    ...     noise_dim = 2
    ...     def rsample_with_log_prob(self, noise):
    ...         return 0.1 * noise, standard_normal_log_prob(noise) - 2 * math.log(0.1)
    >>> isinstance(Narrow(), Posterior), isinstance(Narrow(), FamilyMember)  # it has no density at other points
    (True, False)
    """

    @property
    def noise_dim(self) -> int:
        """Number of standard normal numbers that one sample takes."""
        ...

    def rsample_with_log_prob(self, noise: Float[Tensor, "samples batch noise"]) -> Drawn:
        """z [samples, batch, latent] and its log q(z | x) [samples, batch] in nats, both with gradients."""
        ...


@runtime_checkable
class FamilyMember(Posterior, Protocol):
    """A posterior that also knows its density at a foreign point, and its place in its family.

    Training by the ELBO needs neither. DReG gradients hold the density's parameters constant; the amortisation gap
    (Cremer, Li, Duvenaud 2018) is between an image's member and the best one of the family.
    Laws: log_prob of an own sample is the log_q returned with it; with_parameters(*parameters()) is the same
    posterior; any real numbers in place of the parameters make a member, so gradient ascent on them stays valid.
    """

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        """log q(z | x) of any z, in nats."""
        ...

    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters that distinguish the images' members of the family, each [batch, ...]."""
        ...

    def with_parameters(self, *parameters: Tensor) -> "FamilyMember":
        """The member with these parameters."""
        ...

    def detach(self) -> "FamilyMember":
        """The same distribution, held constant: no gradient reaches what it was computed from."""
        ...


@runtime_checkable
class ClosedFormKL(Posterior, Protocol):
    """A posterior with a closed form of its divergence from the prior, which ``trainer.kl=analytic`` needs.

    >>> isinstance(DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2)), ClosedFormKL)
    True
    """

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q(z | x) || N(0, I)), in nats."""
        ...


def require_family_member(posterior: Posterior, purpose: str) -> FamilyMember:
    """The posterior itself. TypeError: it lacks a method of `FamilyMember`, which ``purpose`` needs.

    >>> q = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> require_family_member(q, "trainer.objective=iwae") is q
    True
    """
    if isinstance(posterior, FamilyMember):
        return posterior
    raise _missing_methods(posterior, FamilyMember, purpose)


def require_closed_form_kl(posterior: Posterior, purpose: str) -> ClosedFormKL:
    """The posterior itself. TypeError: it lacks a method of `ClosedFormKL`, which ``purpose`` needs.

    >>> q = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> require_closed_form_kl(q, "trainer.kl=analytic") is q
    True
    """
    if isinstance(posterior, ClosedFormKL):
        return posterior
    raise _missing_methods(posterior, ClosedFormKL, purpose)


def _missing_methods(posterior: Posterior, protocol: type, purpose: str) -> TypeError:
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    missing = [name for name in methods if not hasattr(posterior, name)]
    return TypeError(
        f"{purpose} needs posteriors with {', '.join(methods)} (vlae.distributions.{protocol.__name__}); "
        f"{type(posterior).__name__} has no {', '.join(missing)}"
    )


class DiagonalGaussian:
    """N(mu, diag exp(log_variance)): the amortised posterior of the VAE (Kingma and Welling 2014).

    mu, log_variance: [batch, latent].

    >>> q = DiagonalGaussian(mu=torch.zeros(3, 2), log_variance=torch.zeros(3, 2))  # 3 images, 2 latent dimensions
    >>> z, log_q = q.rsample_with_log_prob(torch.randn(5, 3, q.noise_dim))
    >>> z.shape, log_q.shape
    (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    >>> q.kl_to_prior()
    tensor([0., 0., 0.])
    """

    def __init__(self, mu: Latent, log_variance: Latent) -> None:
        self.mu, self.log_variance = mu, log_variance
        self.noise_dim = mu.shape[-1]
        self._scale, self._log_det = torch.exp(0.5 * log_variance), 0.5 * log_variance.sum(-1)

    def rsample_with_log_prob(self, noise: Points) -> Drawn:
        return self.mu + self._scale * noise, standard_normal_log_prob(noise) - self._log_det

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        return standard_normal_log_prob((z - self.mu) / self._scale) - self._log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q || N(0, I)) = 1/2 sum(sigma^2 + mu^2 - 1 - log sigma^2), in nats (Kingma, Welling 2014, appendix B)."""
        return 0.5 * (self.log_variance.exp() + self.mu.square() - 1 - self.log_variance).sum(-1)

    def parameters(self) -> tuple[Latent, Latent]:
        return self.mu, self.log_variance

    def with_parameters(self, *parameters: Latent) -> "DiagonalGaussian":
        return DiagonalGaussian(*parameters)

    def detach(self) -> "DiagonalGaussian":
        return DiagonalGaussian(*(p.detach() for p in self.parameters()))


def lower_triangular(
    log_diagonal: Latent, below: Float[Tensor, "batch below"]
) -> Float[Tensor, "batch latent latent"]:
    """L from the logarithms of its diagonal and its entries below, row by row: any numbers make a Cholesky factor.

    >>> lower_triangular(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[[1., 0., 0.],
             [1., 1., 0.],
             [2., 3., 1.]]])
    """
    L = torch.diag_embed(log_diagonal.exp())
    rows, columns = _below_diagonal(L)
    L[:, rows, columns] = below
    return L


def triangle(L: Float[Tensor, "batch latent latent"]) -> tuple[Latent, Float[Tensor, "batch below"]]:
    """The logarithms of L's diagonal [batch, latent] and its entries below: the inverse of `lower_triangular`.

    >>> triangle(torch.tensor([[[1.0, 0.0], [3.0, 1.0]]]))
    (tensor([[0., 0.]]), tensor([[3.]]))
    """
    rows, columns = _below_diagonal(L)
    return L.diagonal(dim1=-2, dim2=-1).log(), L[:, rows, columns]


def _below_diagonal(L: Float[Tensor, "batch latent latent"]) -> Int[Tensor, "2 below"]:
    """Rows and columns of the entries below the diagonal."""
    return torch.tril_indices(L.shape[1], L.shape[2], -1, device=L.device)


class CholeskyGaussian:
    """N(mu, L L') given by the Cholesky factor L of its covariance: z = mu + L eps.

    L is given by the logarithms of its diagonal and its entries below, so that nothing needs a bound.

    >>> q = CholeskyGaussian(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[3.0]]))
    >>> q.cholesky @ q.cholesky.mT  # the covariance
    tensor([[[ 1.,  3.],
             [ 3., 10.]]])
    """

    def __init__(self, mu: Latent, log_diagonal: Latent, below: Float[Tensor, "batch below"]) -> None:
        self.mu, self.log_diagonal, self.below = mu, log_diagonal, below
        self.noise_dim = mu.shape[-1]
        self.cholesky: Float[Tensor, "batch latent latent"] = lower_triangular(log_diagonal, below)
        self._half_log_det = log_diagonal.sum(-1)

    def rsample_with_log_prob(self, noise: Points) -> Drawn:
        offset = (noise.transpose(0, 1) @ self.cholesky.mT).transpose(0, 1)
        return self.mu + offset, standard_normal_log_prob(noise) - self._half_log_det

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        rows = (z - self.mu).transpose(0, 1)
        noise = torch.linalg.solve_triangular(self.cholesky.mT, rows, upper=True, left=False)
        return standard_normal_log_prob(noise.transpose(0, 1)) - self._half_log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q || N(0, I)) = (tr LL' + |mu|^2 - k) / 2 - log det L, in nats; k is latent_dim."""
        trace = self.cholesky.square().sum((-2, -1))
        return 0.5 * (trace + self.mu.square().sum(-1) - self.noise_dim) - self._half_log_det

    def parameters(self) -> tuple[Tensor, ...]:
        return self.mu, self.log_diagonal, self.below

    def with_parameters(self, *parameters: Tensor) -> "CholeskyGaussian":
        return CholeskyGaussian(*parameters)

    def detach(self) -> "CholeskyGaussian":
        return CholeskyGaussian(*(p.detach() for p in self.parameters()))


def cholesky(precision: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """L with P = L L'. NonFiniteError: P is NaN, infinite or not positive definite.

    >>> cholesky(torch.tensor([[[4.0, 2.0], [2.0, 5.0]]]))
    tensor([[[2., 0.],
             [1., 2.]]])
    """
    try:
        return torch.linalg.cholesky(precision)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise NonFiniteError("the precision of a posterior is not finite or not positive definite") from error


class PrecisionGaussian:
    """N(mu, P^-1) given by the Cholesky factor L of its precision P = L L', such as `cholesky` computes.

    z = mu + L^-T eps and log q = -|eps|^2 / 2 + sum log diag L - (k/2) log 2 pi: no inverse is formed, and L is
    computed once per image, not once per sample.

    >>> q = PrecisionGaussian(mu=torch.ones(1, 2), cholesky=2 * torch.eye(2).expand(1, 2, 2))  # the precision is 4
    >>> q.rsample_with_log_prob(torch.ones(1, 1, 2))[0]  # one standard deviation, 1/2, from the mean
    tensor([[[1.5000, 1.5000]]])
    """

    def __init__(self, mu: Latent, *, cholesky: Float[Tensor, "batch latent latent"]) -> None:
        self.mu, self.cholesky = mu, cholesky
        self.noise_dim = mu.shape[-1]
        self._half_log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def rsample_with_log_prob(self, noise: Points) -> Drawn:
        rows = noise.transpose(0, 1)
        offset = torch.linalg.solve_triangular(self.cholesky, rows, upper=False, left=False).transpose(0, 1)
        return self.mu + offset, standard_normal_log_prob(noise) + self._half_log_det

    def whiten(self, z: Points) -> Points:
        """The noise L'(z - mu) that leads to z."""
        return ((z - self.mu).transpose(0, 1) @ self.cholesky).transpose(0, 1)

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        return standard_normal_log_prob(self.whiten(z)) + self._half_log_det

    def kl_to_prior(self) -> Float[Tensor, " batch"]:
        """KL(q || N(0, I)) = (tr P^-1 + |mu|^2 - k) / 2 + log det L in nats, with tr P^-1 = |L^-1|^2."""
        identity = torch.eye(self.noise_dim, dtype=self.mu.dtype, device=self.mu.device)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity, upper=False)
        trace = inverse.square().sum((-2, -1))
        return 0.5 * (trace + self.mu.square().sum(-1) - self.noise_dim) + self._half_log_det

    def parameters(self) -> tuple[Tensor, ...]:
        """mu, and L as the logarithms of its diagonal and its entries below."""
        return self.mu, *triangle(self.cholesky)

    def with_parameters(self, *parameters: Tensor) -> "PrecisionGaussian":
        mu, log_diagonal, below = parameters
        return PrecisionGaussian(mu, cholesky=lower_triangular(log_diagonal, below))

    def detach(self) -> "PrecisionGaussian":
        return PrecisionGaussian(self.mu.detach(), cholesky=self.cholesky.detach())


class PrecisionStudentT:
    """A multivariate Student t with location mu and scale matrix P^-1: heavier tails than the Gaussian's.

    The chi-squared variable of ``degrees`` freedom is a sum of squares, so a sample takes latent + degrees numbers.

    >>> gaussian = PrecisionGaussian(torch.zeros(1, 2), cholesky=torch.eye(2).expand(1, 2, 2))
    >>> PrecisionStudentT(gaussian, degrees=10).noise_dim
    12
    """

    def __init__(self, gaussian: PrecisionGaussian, degrees: int = 10) -> None:
        self.mu, self.cholesky, self.degrees = gaussian.mu, gaussian.cholesky, degrees
        self.noise_dim = gaussian.noise_dim + degrees
        self._gaussian = gaussian

    def rsample_with_log_prob(self, noise: Float[Tensor, "samples batch noise"]) -> Drawn:
        latent = self.noise_dim - self.degrees
        eps, squares = noise.split([latent, self.degrees], dim=-1)
        t = eps / squares.square().mean(-1, keepdim=True).sqrt()
        z, log_gaussian = self._gaussian.rsample_with_log_prob(t)
        return z, log_gaussian + self._log_ratio_to_gaussian(t)

    def log_prob(self, z: Points) -> Float[Tensor, "samples batch"]:
        return self._gaussian.log_prob(z) + self._log_ratio_to_gaussian(self._gaussian.whiten(z))

    def parameters(self) -> tuple[Tensor, ...]:
        return self._gaussian.parameters()

    def with_parameters(self, *parameters: Tensor) -> "PrecisionStudentT":
        return PrecisionStudentT(self._gaussian.with_parameters(*parameters), self.degrees)

    def detach(self) -> "PrecisionStudentT":
        return PrecisionStudentT(self._gaussian.detach(), self.degrees)

    def _log_ratio_to_gaussian(self, t: Points) -> Float[Tensor, "samples batch"]:
        """log of this density over the Gaussian's: they share the determinant and differ in their shape in |t|."""
        latent = t.shape[-1]
        power = 0.5 * (self.degrees + latent)
        constant = math.lgamma(power) - math.lgamma(0.5 * self.degrees)
        constant -= 0.5 * latent * math.log(0.5 * self.degrees)
        square = t.square().sum(-1)
        return 0.5 * square + constant - power * torch.log1p(square / self.degrees)
