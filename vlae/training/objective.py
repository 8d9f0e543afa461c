"""Log-weights, the ELBO and the importance-weighted bound, and what training maximises: once, for every model."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Trainer
from vlae.distributions.flows import Flow, FlowedGaussian
from vlae.distributions.posteriors import (
    FamilyMember,
    Images,
    Posterior,
    require_closed_form_kl,
    require_family_member,
    standard_normal_log_prob,
)
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

METRICS = ("elbo_nats", "reconstruction_nats", "kl_nats")


@dataclass
class Terms:
    """The three densities of a sample z ~ q(z | x), in nats.

    >>> terms = Terms(torch.tensor([[-5.0]]), torch.tensor([[-2.0]]), torch.tensor([[-1.0]]))
    >>> terms.log_weights, terms.kl
    (tensor([[-6.]]), tensor([[1.]]))
    """

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

    def metrics(self) -> Float[Tensor, " metrics"]:
        """METRICS, averaged over samples and images."""
        return torch.stack([self.log_weights.mean(), self.log_likelihood.mean(), self.kl.mean()])


def sample_terms(model: LatentVariableModel, x: Images, noise: Noise, samples: int) -> Terms:
    """Infer q(z | x), draw ``samples`` z for each image, and evaluate the three densities.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.models.backbone import Backbone
    >>> from vlae.models.vae import VAE
    >>> from vlae.seeding import batch_noise, generator
    >>> model = VAE(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()))
    >>> noise = batch_noise(3, generator("cpu", 0), torch.float32)
    >>> sample_terms(model, torch.zeros(3, 16), noise, samples=5).log_weights.shape
    torch.Size([5, 3])
    """
    posterior = model.posterior(x, noise)
    return posterior_terms(model, x, posterior, noise(samples, posterior.noise_dim))


def posterior_terms(
    model: LatentVariableModel, x: Images, posterior: Posterior, eps: Float[Tensor, "samples batch noise"]
) -> Terms:
    """The three densities of the z that ``posterior`` makes of the noise ``eps``."""
    z, log_q = posterior.rsample_with_log_prob(eps)
    return Terms(model.output.log_prob(x, model.decoder(z)), standard_normal_log_prob(z), log_q)


def elbo(log_weights: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    """E_q[log w] by the mean over samples, in nats per image.

    >>> elbo(torch.tensor([[-2.0], [-4.0]]))
    tensor([-3.])
    """
    return log_weights.mean(0)


def importance_weighted_bound(log_weights: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    """log (1/S) sum_s w_s (Burda et al. 2016, equation 8), which grows towards log p(x) with S; in nats per image.

    >>> importance_weighted_bound(torch.tensor([[-2.0], [-4.0]]))
    tensor([-2.5662])
    """
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


Estimate = tuple[Float[Tensor, ""], Float[Tensor, " metrics"]]
"""The loss, whose gradient training descends, and the metrics."""


@dataclass(frozen=True)
class Objective:
    """The quantity that training maximises; ``metrics`` names the numbers that ``estimate`` returns, in nats per image.

    >>> select_objective("iwae", "sampled").metrics
    ('elbo_nats', 'reconstruction_nats', 'kl_nats', 'iwae_bound_nats')
    """

    estimate: Callable[[LatentVariableModel, Images, Noise, int, float], Estimate]
    """(model, x, noise, samples, weight of KL(q || p)) -> (loss, metrics)."""
    metrics: tuple[str, ...] = METRICS


def select_objective(objective: str, kl: str) -> Objective:
    """The objective that ``trainer.objective`` and ``trainer.kl`` name."""
    if objective == "iwae":
        return Objective(doubly_reparameterised_bound, (*METRICS, "iwae_bound_nats"))
    return Objective(sampled_elbo if kl == "sampled" else analytic_elbo)


def kl_weight(trainer: Trainer, epochs: float) -> float:
    """The weight of KL(q || p) after so many epochs: ``trainer.kl_weight``, to which it rises in ``kl_warmup_epochs``.

    >>> [kl_weight(Trainer(epochs=9, kl_weight=2.0, kl_warmup_epochs=4.0), epochs) for epochs in (0, 1, 4, 8)]
    [0.0, 0.5, 2.0, 2.0]
    """
    risen = min(1.0, epochs / trainer.kl_warmup_epochs) if trainer.kl_warmup_epochs else 1.0
    return trainer.kl_weight * risen


def _loss(metrics: Float[Tensor, " metrics"], weight: float) -> Float[Tensor, ""]:
    """-(reconstruction - weight KL); with weight 1 the ELBO itself, to the last bit."""
    elbo, reconstruction, kl = metrics
    return -elbo if weight == 1 else weight * kl - reconstruction


def sampled_elbo(
    model: LatentVariableModel, x: Images, noise: Noise, samples: int, weight: float = 1.0
) -> Estimate:
    """The ELBO as the mean log-weight of ``samples`` z per image (Kingma and Welling 2014, estimator A).

    weight: of KL(q || p) in the loss (Higgins et al. 2017); the metrics are those of the ELBO.
    """
    metrics = sample_terms(model, x, noise, samples).metrics()
    return _loss(metrics, weight), metrics.detach()


def analytic_elbo(
    model: LatentVariableModel, x: Images, noise: Noise, samples: int, weight: float = 1.0
) -> Estimate:
    """E_q[log p(x | z)] sampled, minus KL(q || p) in closed form (Kingma and Welling 2014, estimator B).

    weight: as in `sampled_elbo`. TypeError: the posterior has no closed form of its KL.
    """
    posterior = require_closed_form_kl(model.posterior(x, noise), "trainer.kl=analytic")
    z, _ = posterior.rsample_with_log_prob(noise(samples, posterior.noise_dim))
    reconstruction = model.output.log_prob(x, model.decoder(z)).mean()
    kl = posterior.kl_to_prior().mean()
    metrics = torch.stack([reconstruction - kl, reconstruction, kl])
    return _loss(metrics, weight), metrics.detach()


def doubly_reparameterised_bound(
    model: LatentVariableModel, x: Images, noise: Noise, samples: int, _weight: float = 1.0
) -> Estimate:
    """The K-sample bound (Burda et al. 2016), with the gradient of Tucker et al. 2018 (DReG, equation 8).

    With normalised weights w_k and z_k a function of noise and of the posterior's parameters phi,

        d log p = sum_k w_k d_theta log p_theta(x, z_k) + sum_k w_k^2 (d log w_k / dz_k) dz_k,

    where d log w_k / dz_k holds phi constant. It has the expectation of the bound's ordinary gradient, without the
    term d_phi log q_phi(z_k), whose signal is lost in noise as K grows. Nothing in it asks where phi comes from:
    the decoder's weights get the first sum directly and, where inference goes through the decoder (VLAE, SA-VAE),
    their share of the second through z_k. In code: the loss is -sum_k w_k log w_k, with w_k constant and q_phi held
    constant, so that z_k receives w_k d log w_k / dz_k, and what z_k passes on is multiplied by w_k once more.

    A flow z = f(u) that is not orthogonal counts as a part of the model: u is sampled in place of z, with the joint
    density p(x, f(u)) |det df/du|. So the flow's parameters are in theta, and its inverse, in which this gradient
    can be enormous, in nothing (docs/decisions/0007).
    The loss's value means nothing. With K = 1 the gradient is the ELBO's path derivative (Roeder et al. 2017).
    TypeError: the posterior is no `FamilyMember`.
    """
    base, flow = _base_and_flow(model.posterior(x, noise))
    u, _ = base.rsample_with_log_prob(noise(samples, base.noise_dim))
    log_q = base.detach().log_prob(u)
    z, log_det = flow(u) if flow is not None else (u, torch.zeros_like(log_q))
    terms = Terms(model.output.log_prob(x, model.decoder(z)), standard_normal_log_prob(z), log_q - log_det)
    log_w = terms.log_weights
    w = torch.softmax(log_w.detach(), 0)
    if u.requires_grad:
        u.register_hook(lambda gradient: w.unsqueeze(-1) * gradient)
    loss = -(w * log_w).sum(0).mean()
    bound = importance_weighted_bound(log_w).mean()
    return loss, torch.cat([terms.metrics(), bound.unsqueeze(0)]).detach()


def _base_and_flow(posterior: Posterior) -> tuple[FamilyMember, Flow | None]:
    """The distribution that is sampled, and the flow from there to z where it counts as a part of the model."""
    if isinstance(posterior, FlowedGaussian) and not posterior.flow.orthogonal:
        return posterior.base, posterior.flow
    return require_family_member(posterior, "trainer.objective=iwae"), None
