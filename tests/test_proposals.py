"""Proposals: every model has every one, found from its own decoder alone; the mixture is one half of each."""

import math

import numpy as np
import pytest
import torch
from conftest import IMAGES, LATENT, OUTPUTS, linear, make_images, make_model, noise, numbers
from scipy.stats import multivariate_t
from torch.distributions import MultivariateNormal

from vlae.config.schema import PROPOSALS
from vlae.distributions.posteriors import DiagonalGaussian, PrecisionGaussian, cholesky
from vlae.estimation.log_weights import select_images
from vlae.estimation.proposals import of_decoder, propose
from vlae.estimation.proposals.mixture import Mixture
from vlae.estimation.proposals.student_t import DEGREES
from vlae.models.fullcov import FullCovariance
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE, OriginalSAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.models.vlae_newton import VLAENewton
from vlae.training.objective import Terms

KINDS = [VAE, FullCovariance, SAVAE, OriginalSAVAE, HF, IAF, VLAE, VLAENewton]


def gaussians():
    matrix = numbers(IMAGES, LATENT, LATENT, key="precision")
    precision = matrix @ matrix.mT + torch.eye(LATENT).double()
    own = DiagonalGaussian(numbers(IMAGES, LATENT, key="own"), numbers(IMAGES, LATENT, key="variance"))
    return own, PrecisionGaussian(numbers(IMAGES, LATENT, key="mu"), cholesky=cholesky(precision))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_laplace_is_exact_for_a_linear_gaussian_model(
    kind,
):
    """Whatever the model's own posterior: log w is log p(x) + log p(z | x) - log q(z)."""
    model, x = make_model(kind, "gaussian", hidden_dims=(8, 6)), make_images("gaussian")
    W, b = linear(model.decoder)
    variance = model.output.log_variance.exp()
    evidence = MultivariateNormal(b, W @ W.T + variance * torch.eye(len(b)).double()).log_prob(x)
    P = W.T @ W / variance + torch.eye(LATENT).double()
    mean, scale = torch.linalg.solve(P, W.T @ (x - b).T / variance).T, torch.linalg.inv(P)
    for name in ("laplace", "student_t"):
        q, modes = propose(name, model, x, noise())
        assert modes.steps.max() <= 1
        z, log_q = q.rsample_with_log_prob(numbers(9, IMAGES, q.noise_dim, key="eps"))
        prior = MultivariateNormal(torch.zeros(LATENT).double(), torch.eye(LATENT).double()).log_prob(z)
        weights = Terms(model.output.log_prob(x, model.decoder(z)), prior, log_q).log_weights
        beside = torch.zeros(9, IMAGES).double()
        if name == "student_t":
            log_t = [multivariate_t(mean[i], scale, DEGREES).logpdf(z[:, i]) for i in range(IMAGES)]
            beside = MultivariateNormal(mean, scale).log_prob(z) - torch.tensor(np.stack(log_t, 1))
        torch.testing.assert_close(weights, evidence + beside, rtol=0, atol=1e-9)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_laplace_does_not_depend_on_the_start_of_its_search(kind, output):
    """A linear decoder has one mode."""
    model, x = make_model(kind, output, hidden_dims=(8, 6)), make_images(output)
    linear(model.decoder)
    expected, _ = propose("laplace", model, x, noise())
    for parameter in model.encoder.parameters():
        parameter.mul_(2)
    found, _ = propose("laplace", model, x, noise())
    # each search ends less than 1e-2 nats below the mode: sqrt(2e-2) standard deviations from it, at most 1 each
    torch.testing.assert_close(found.mu, expected.mu, rtol=0, atol=2 * math.sqrt(2e-2))
    torch.testing.assert_close(found.cholesky, expected.cholesky, rtol=0.1, atol=0.1)


def test_density_of_the_mixture_is_the_mean_of_both_densities():
    own, gaussian = gaussians()
    z = numbers(9, IMAGES, LATENT, key="z")
    expected = (own.log_prob(z).exp() + gaussian.log_prob(z).exp()) / 2
    torch.testing.assert_close(Mixture(own, gaussian).log_prob(z).exp(), expected)


def test_the_mixture_samples_each_half_equally_often():
    own, gaussian = gaussians()
    mixture = Mixture(own, gaussian)
    eps = numbers(20_000, IMAGES, mixture.noise_dim, key="eps")
    z, log_q = mixture.rsample_with_log_prob(eps)
    torch.testing.assert_close(log_q, mixture.log_prob(z))
    of_own = (z == own.rsample_with_log_prob(eps[..., :-1])[0]).all(-1)
    of_gaussian = (z == gaussian.rsample_with_log_prob(eps[..., :-1])[0]).all(-1)
    assert torch.all(of_own ^ of_gaussian)
    assert abs(of_own.double().mean() - 0.5) < 4 * 0.5 / of_own.numel() ** 0.5
    # unbiased: the mean of p / q is 1 for any normalised p, here either half
    for p in (own, gaussian):
        ratio = (p.log_prob(z) - log_q).exp()
        assert ratio.max() <= 2 + 1e-9
        assert torch.all((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / len(z) ** 0.5)


@torch.no_grad()
def test_mixture_weights_are_at_most_twice_those_of_a_half():
    """A steep flow loses its own samples in float32: the component that was drawn knows its density."""
    model = make_model(IAF, "gaussian", num_flows=3, flow_hidden_dims=(12,))
    for parameter in model.flows.parameters():
        parameter.mul_(4)  # gates that close
    model, x = model.float(), make_images("gaussian").float()
    own = model.posterior(x, noise(dtype=torch.float32))
    mixture, _ = propose("mixture", model, x, noise(dtype=torch.float32))
    eps = numbers(2000, IMAGES, mixture.noise_dim, key="eps").float()
    z, log_q = mixture.rsample_with_log_prob(eps)
    own_z, own_log_q = own.rsample_with_log_prob(eps[..., :-1])
    gaussian_z, gaussian_log_q = mixture.gaussian.rsample_with_log_prob(eps[..., :-1])
    of_own = eps[..., -1] > 0
    assert not own.log_prob(own_z)[of_own].isfinite().all(), "nothing overflows: no test"
    assert log_q.isfinite().all()
    for drawn, half_z, half_log_q in ((of_own, own_z, own_log_q), (~of_own, gaussian_z, gaussian_log_q)):
        assert torch.equal(z[drawn], half_z[drawn])
        assert torch.all(log_q[drawn] >= half_log_q[drawn] - math.log(2) - 1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in PROPOSALS if not of_decoder(name)])
@pytest.mark.parametrize("kind", KINDS)
def test_chosen_images_keep_their_proposal(kind, name):
    model, x = make_model(kind, "bernoulli"), make_images("bernoulli")
    q, _ = propose(name, model, x, noise())
    eps, chosen = numbers(5, IMAGES, q.noise_dim, key="eps"), torch.tensor([True, False, False, True])
    expected = q.rsample_with_log_prob(eps)
    found = select_images(q, chosen).rsample_with_log_prob(eps[:, chosen])
    for ours, all_of_them in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, all_of_them[:, chosen], rtol=1e-9, atol=1e-9)


def test_an_unknown_proposal_is_refused_with_the_choices():
    model, x = make_model(VAE, "gaussian"), make_images("gaussian")
    with pytest.raises(ValueError, match=r"laplace, mixture, own, student_t.*'prior'"):
        propose("prior", model, x, noise())
