"""Log-weights, the ELBO and the importance-weighted bound: once, for every model."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions import standard_normal_log_prob
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise


@dataclass
class Terms:
    """The three densities of a sample z ~ q(z | x), in nats."""

    log_likelihood: Float[Tensor, "samples batch"]
    log_prior: Float[Tensor, "samples batch"]
    log_posterior: Float[Tensor, "samples batch"]

    @property
    def log_weights(self) -> Float[Tensor, "samples batch"]:
        """log p(x | z) + log p(z) - log q(z | x)."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def kl(self) -> Float[Tensor, "samples batch"]:
        """The sampled KL(q(z | x) || p(z)): unbiased, may be negative for one sample."""
        return self.log_posterior - self.log_prior


def sample_terms(
    model: LatentVariableModel, x: Float[Tensor, "batch pixels"], noise: Noise, samples: int
) -> Terms:
    """Infer q(z | x), draw ``samples`` z for each image, and evaluate the three densities."""
    posterior = model.posterior(x, noise)
    z, log_q = posterior.rsample_with_log_prob(noise(samples, posterior.noise_dim))
    return Terms(model.output.log_prob(x, model.decoder(z)), standard_normal_log_prob(z), log_q)


def elbo(log_weights: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    """E_q[log w]."""
    return log_weights.mean(0)


def importance_weighted_bound(log_weights: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    """log (1/S) sum_s w_s (Burda et al. 2016, equation 8): from below to log p(x) as S grows."""
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])
