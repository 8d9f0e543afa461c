"""The distributions of the models: posteriors q(z | x) and output distributions p(x | z)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.errors import NonFiniteError
from vlae.likelihood import GramLikelihood, Likelihood, LogitBernoulli, PixelLikelihood, RotatedGaussian
from vlae.networks import Decoder

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
        self.mu = mu
        self.noise_dim = mu.shape[-1]
        self.cholesky: Float[Tensor, "batch latent latent"] = cholesky(precision)
        self._half_log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        rows = noise.transpose(0, 1)
        offset = torch.linalg.solve_triangular(self.cholesky, rows, upper=False, left=False).transpose(0, 1)
        return self.mu + offset, standard_normal_log_prob(noise) + self._half_log_det


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
        # the Gaussian's density has the determinant; what differs is the shape in |t|
        power = 0.5 * (self.degrees + latent)
        constant = math.lgamma(power) - math.lgamma(0.5 * self.degrees)
        constant -= 0.5 * latent * math.log(0.5 * self.degrees)
        square = t.square().sum(-1)
        return z, log_gaussian + 0.5 * square + constant - power * torch.log1p(square / self.degrees)


Flow = Callable[
    [Float[Tensor, "samples batch latent"]],
    tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]],
]
"""z_0 -> (z, log |det dz/dz_0|)."""


class FlowedGaussian:
    """A diagonal Gaussian pushed through a flow: log q(z) = log q_0(z_0) - log |det dz/dz_0|."""

    def __init__(self, base: DiagonalGaussian, flow: Flow) -> None:
        self.base, self.flow = base, flow
        self.noise_dim = base.noise_dim

    def rsample_with_log_prob(
        self, noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        z0, log_q0 = self.base.rsample_with_log_prob(noise)
        z, log_det = self.flow(z0)
        return z, log_q0 - log_det


class OutputDistribution(nn.Module, ABC):
    """p(x | z) given the decoder's output f(z): independent pixels."""

    support: str
    """``real``: any numbers; ``binary``: 0 or 1. Decides how images are preprocessed."""

    @abstractmethod
    def log_prob(
        self, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x | z), summed over pixels, in nats."""

    @abstractmethod
    def mean(self, f: Float[Tensor, "*axes pixels"]) -> Float[Tensor, "*axes pixels"]:
        """E[x | z]."""

    @abstractmethod
    def likelihood(self, decoder: Decoder, x: Float[Tensor, "batch pixels"]) -> Likelihood:
        """log p(x | z) of fixed images near given z: gradient and curvature, for inference."""

    @abstractmethod
    def scorer(self, decoder: Decoder) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
        """``scorer(decoder)(x)(z)`` = log p(x | z), prepared for very many z per image; no gradients."""

    def initialise(self, variance: float) -> None:
        """Start from the variance of the (mean-subtracted) training data."""


class GaussianOutput(OutputDistribution):
    """N(x; f(z), s2 I) with one learned variance s2 for all pixels, initialised to that of the training data."""

    support = "real"

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def initialise(self, variance: float) -> None:
        with torch.no_grad():
            self.log_variance.fill_(math.log(variance))

    def log_prob(
        self, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        squared_error = F.mse_loss(f, x.expand_as(f), reduction="none").sum(-1)
        return -0.5 * (
            squared_error * torch.exp(-self.log_variance) + x.shape[-1] * (LOG_2PI + self.log_variance)
        )

    def mean(self, f: Float[Tensor, "*axes pixels"]) -> Float[Tensor, "*axes pixels"]:
        return f

    def score(
        self, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "batch pixels"]
    ) -> Float[Tensor, "batch pixels"]:
        """d log p(x | f) / df = (x - f) / s2."""
        return (x - f) * torch.exp(-self.log_variance)

    def curvature(self, f: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch pixels"]:
        """-d^2 log p(x | f) / df^2 = 1 / s2."""
        return torch.exp(-self.log_variance).expand_as(f)

    def likelihood(self, decoder: Decoder, x: Float[Tensor, "batch pixels"]) -> Likelihood:
        if decoder.last is None:
            return PixelLikelihood(decoder, x, self.score, self.curvature)
        return GramLikelihood(decoder.last, x, torch.exp(-self.log_variance))

    def scorer(self, decoder: Decoder) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
        if decoder.last is None:
            return lambda x: lambda z: self.log_prob(x, decoder(z))
        return RotatedGaussian(decoder.body, decoder.last, self.log_variance)


class BernoulliOutput(OutputDistribution):
    """Independent Bernoulli pixels with logits f(z).

    ``clamp=c`` keeps probabilities in [c, 1-c], without gradient where it binds, and adds c to the curvature:
    what the released code does with c = 1e-5. None computes from the logits, exactly.
    """

    support = "binary"

    def __init__(self, clamp: Annotated[float, Field(gt=0, lt=0.5)] | None = None) -> None:
        super().__init__()
        self.clamp = clamp

    def _logits(self, f: Float[Tensor, "*axes pixels"]) -> Float[Tensor, "*axes pixels"]:
        if self.clamp is None:
            return f
        limit = math.log((1 - self.clamp) / self.clamp)
        return f.clamp(-limit, limit)

    def log_prob(
        self, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        logits = self._logits(f)
        return (x * logits - F.softplus(logits)).sum(-1)

    def mean(self, f: Float[Tensor, "*axes pixels"]) -> Float[Tensor, "*axes pixels"]:
        return torch.sigmoid(f)

    def score(
        self, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "batch pixels"]
    ) -> Float[Tensor, "batch pixels"]:
        """d log p(x | f) / df = x - p, also where ``clamp`` binds: there the released code infers with it, too."""
        return x - torch.sigmoid(f)

    def curvature(self, f: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch pixels"]:
        """-d^2 log p(x | f) / df^2 = p (1 - p)."""
        p = torch.sigmoid(self._logits(f))
        return p * (1 - p) + (self.clamp or 0.0)

    def likelihood(self, decoder: Decoder, x: Float[Tensor, "batch pixels"]) -> Likelihood:
        return PixelLikelihood(decoder, x, self.score, self.curvature)

    def scorer(self, decoder: Decoder) -> LogitBernoulli:
        return LogitBernoulli(decoder, self._logits)
