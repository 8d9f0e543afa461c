"""Log-weights, the ELBO and the importance-weighted bound."""

import pytest
import torch
from conftest import (
    HIDDEN,
    IMAGES,
    LATENT,
    OUTPUTS,
    given,
    make_images,
    make_model,
    noise,
    numbers,
    sigma_points,
)
from torch.distributions import Bernoulli, Normal, kl_divergence

from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.objective import elbo, importance_weighted_bound, sample_terms

KINDS = [VAE, SAVAE, HF, IAF, VLAE]


def make(kind, output):
    keys = {"flow_hidden_dims": HIDDEN} if kind is IAF else {}
    return make_model(kind, output, **keys), make_images(output)


@pytest.mark.parametrize("output", OUTPUTS)
@torch.no_grad()
def test_terms_of_the_vae_are_torchs_three_densities_at_the_sample(output):
    model, x = make(VAE, output)
    eps = numbers(6, IMAGES, LATENT)
    mu, log_variance = model.amortised(model.encoder(x))
    q = Normal(mu, (log_variance / 2).exp())
    z = mu + q.scale * eps
    f = model.decoder(z)
    p = Bernoulli(logits=f) if output == "bernoulli" else Normal(f, (model.output.log_variance / 2).exp())
    terms = sample_terms(model, x, given(eps), 6)
    prior = Normal(torch.zeros(LATENT).double(), 1.0)
    torch.testing.assert_close(
        terms.log_likelihood, p.log_prob(x.expand_as(f)).sum(-1), rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(terms.log_prior, prior.log_prob(z).sum(-1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(terms.log_posterior, q.log_prob(z).sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_log_weight_is_reconstruction_minus_kl(kind):
    model, x = make(kind, "gaussian")
    terms = sample_terms(model, x, noise(), 5)
    assert terms.log_weights.shape == (5, IMAGES)
    torch.testing.assert_close(terms.log_weights, terms.log_likelihood - terms.kl, rtol=1e-12, atol=1e-12)
    joint = terms.log_likelihood + terms.log_prior
    torch.testing.assert_close(terms.log_weights, joint - terms.log_posterior, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_mean_of_the_sampled_kl_is_the_kl_divergence_of_torch():
    """Of a diagonal Gaussian, whose sigma points give the mean exactly."""
    model, x = make(VAE, "gaussian")
    mu, log_variance = model.amortised(model.encoder(x))
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(Normal(mu, (log_variance / 2).exp()), prior).sum(-1)
    sampled = sample_terms(model, x, given(sigma_points(IMAGES, LATENT)), 2 * LATENT).kl
    torch.testing.assert_close(sampled.mean(0), expected, rtol=1e-11, atol=1e-11)


def test_elbo_is_the_mean_log_weight():
    log_w = numbers(9, IMAGES)
    torch.testing.assert_close(elbo(log_w), log_w.sum(0) / 9, rtol=1e-14, atol=0.0)


def test_importance_weighted_bound_is_the_log_of_the_mean_weight():
    log_w = numbers(9, IMAGES)
    torch.testing.assert_close(
        importance_weighted_bound(log_w), log_w.exp().mean(0).log(), rtol=1e-13, atol=1e-13
    )


def test_importance_weighted_bound_of_one_sample_is_its_log_weight_and_of_equal_weights_theirs():
    log_w = numbers(1, IMAGES)
    assert torch.equal(importance_weighted_bound(log_w), log_w[0])
    torch.testing.assert_close(
        importance_weighted_bound(log_w.expand(50, -1)), log_w[0], rtol=1e-14, atol=1e-14
    )


def test_bound_moves_with_its_log_weights_without_overflow():
    log_w, shift = numbers(9, IMAGES), torch.tensor([-5000.0, -800.0, 800.0, 5000.0]).double()
    moved = importance_weighted_bound(log_w + shift)
    torch.testing.assert_close(moved, importance_weighted_bound(log_w) + shift, rtol=0, atol=1e-11)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_elbo_is_below_the_bound_of_ten_which_is_below_that_of_a_thousand(kind, output):
    """Of the same thousand samples in groups of 1, 10 and 1000: then it holds for every draw, not only on average."""
    model, x = make(kind, output)
    log_w = sample_terms(model, x, noise(), 1000).log_weights
    bounds = [
        torch.stack([importance_weighted_bound(group) for group in log_w.split(size)]).mean(0)
        for size in (1, 10, 1000)
    ]
    torch.testing.assert_close(bounds[0], elbo(log_w), rtol=1e-12, atol=1e-12)
    assert torch.all(bounds[0] < bounds[1])
    assert torch.all(bounds[1] < bounds[2])
