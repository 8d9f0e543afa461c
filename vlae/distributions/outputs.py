"""Output distributions p(x | z): Gaussian and Bernoulli."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions.likelihood import (
    GramLikelihood,
    Likelihood,
    PixelLikelihood,
    RotatedGaussian,
)
from vlae.distributions.posteriors import LOG_2PI, Images
from vlae.nn.networks import Decoder

Pixels = Float[Tensor, "*axes pixels"]
Scorer = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""``scorer(x)(z)`` = log p(x | z) [samples, batch] in nats, for x [batch, pixels] and z [samples, batch, latent]."""


class OutputDistribution(nn.Module, ABC):
    """p(x | z) given the decoder's output f(z): independent pixels.

    Images x are [batch, pixels] in model space, f is [..., batch, pixels]; log-densities are in nats per image. An
    output distribution of your own derives from this class and defines the methods below; `GaussianOutput` is one.
    """

    support: str
    """Values of a pixel, which decide the preprocessing: ``real`` (any number) or ``binary`` (0 or 1)."""

    @abstractmethod
    def log_prob(
        self, x: Images, f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x | z), summed over pixels, in nats."""

    @abstractmethod
    def mean(self, f: Pixels) -> Pixels:
        """E[x | z], in the shape of f."""

    @abstractmethod
    def sample(self, f: Pixels, noise: Pixels) -> Pixels:
        """x ~ p(x | z) in the shape of f, a function of standard normal noise of that shape."""

    @abstractmethod
    def likelihood(self, decoder: Decoder, x: Images) -> Likelihood:
        """log p(x | z) of fixed images near given z: gradient and curvature, for inference."""

    @abstractmethod
    def scorer(self, decoder: Decoder) -> Scorer:
        """``scorer(decoder)(x)(z)`` = log p(x | z), prepared for very many z per image; no gradients."""

    def initialise(self, variance: float) -> None:
        """Start from the variance of the (mean-subtracted) training data."""


class GaussianOutput(OutputDistribution):
    """N(x; f(z), s2 I) with one learned variance s2 for all pixels, initialised to that of the training data.

    Its parameter is ``log_variance`` = log s2; the reconstruction E[x | z] is f itself.

    >>> output = GaussianOutput()
    >>> output.log_prob(torch.zeros(3, 16), torch.zeros(7, 3, 16)).shape  # images [3, 16], means of 7 samples each
    torch.Size([7, 3])
    >>> output.initialise(variance=0.25)
    >>> output.sample(torch.zeros(1, 2), noise=torch.ones(1, 2))  # one standard deviation, 1/2, from the mean
    tensor([[0.5000, 0.5000]], grad_fn=<AddBackward0>)
    """

    support = "real"

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def initialise(self, variance: float) -> None:
        with torch.no_grad():
            self.log_variance.fill_(math.log(variance))

    def log_prob(
        self, x: Images, f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        squared_error = F.mse_loss(f, x.expand_as(f), reduction="none").sum(-1)
        return -0.5 * (
            squared_error * torch.exp(-self.log_variance) + x.shape[-1] * (LOG_2PI + self.log_variance)
        )

    def mean(self, f: Pixels) -> Pixels:
        return f

    def sample(self, f: Pixels, noise: Pixels) -> Pixels:
        return f + torch.exp(0.5 * self.log_variance) * noise

    def score(self, x: Images, f: Images) -> Images:
        """d log p(x | f) / df = (x - f) / s2."""
        return (x - f) * torch.exp(-self.log_variance)

    def curvature(self, f: Images) -> Images:
        """-d^2 log p(x | f) / df^2 = 1 / s2."""
        return torch.exp(-self.log_variance).expand_as(f)

    def likelihood(self, decoder: Decoder, x: Images) -> Likelihood:
        if decoder.last is None:
            return PixelLikelihood(decoder, x, self.log_prob, self.score, self.curvature)
        return GramLikelihood(decoder.last, x, torch.exp(-self.log_variance))

    def scorer(self, decoder: Decoder) -> Scorer:
        if decoder.last is None:
            return lambda x: lambda z: self.log_prob(x, decoder(z))
        return RotatedGaussian(decoder.body, decoder.last, self.log_variance)


class BernoulliOutput(OutputDistribution):
    """Independent Bernoulli pixels with logits f(z).

    ``clamp=c`` keeps probabilities in [c, 1-c], without gradient where it binds, and adds c to the curvature:
    the released code does this with c = 1e-5. None computes from the logits, exactly.

    >>> BernoulliOutput().log_prob(torch.ones(1, 2), torch.zeros(1, 2)) / math.log(2)  # two pixels of p = 1/2
    tensor([-2.])
    >>> BernoulliOutput().mean(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    support = "binary"

    def __init__(self, clamp: Annotated[float, Field(gt=0, lt=0.5)] | None = None) -> None:
        super().__init__()
        self.clamp = clamp

    def _logits(self, f: Pixels) -> Pixels:
        if self.clamp is None:
            return f
        limit = math.log((1 - self.clamp) / self.clamp)
        return f.clamp(-limit, limit)

    def log_prob(
        self, x: Images, f: Float[Tensor, "*samples batch pixels"]
    ) -> Float[Tensor, "*samples batch"]:
        logits = self._logits(f)
        return (x * logits - F.softplus(logits)).sum(-1)

    def mean(self, f: Pixels) -> Pixels:
        return torch.sigmoid(f)

    def sample(self, f: Pixels, noise: Pixels) -> Pixels:
        uniform = 0.5 * (1 + torch.erf(noise / math.sqrt(2)))
        return (uniform < torch.sigmoid(self._logits(f))).to(f.dtype)

    def score(self, x: Images, f: Images) -> Images:
        """d log p(x | f) / df = x - p, also where ``clamp`` binds: there the released code infers with it, too."""
        return x - torch.sigmoid(f)

    def curvature(self, f: Images) -> Images:
        """-d^2 log p(x | f) / df^2 = p (1 - p)."""
        p = torch.sigmoid(self._logits(f))
        return p * (1 - p) + (self.clamp or 0.0)

    def likelihood(self, decoder: Decoder, x: Images) -> Likelihood:
        return PixelLikelihood(decoder, x, self.log_prob, self.score, self.curvature)

    def scorer(self, decoder: Decoder) -> Scorer:
        def log_prob(x: Images, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
            f = self._logits(decoder(z))
            # a matrix-vector product for each image: no pass over the logits writes them once more
            return torch.einsum("sbp,bp->sb", f, x) - F.softplus(f).sum(-1)

        return lambda x: partial(log_prob, x)
