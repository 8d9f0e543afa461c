"""A mixture of Student t distributions: its density against scipy, samples that have it, its gradient, its images."""

import math

import numpy as np
import pytest
import torch
from conftest import IMAGES, LATENT, numbers
from scipy.special import logsumexp
from scipy.stats import f, kstest, multivariate_t, t

from vlae.distributions.posteriors import FamilyMember
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.log_weights import select_images

DEGREES = 5
COUNTS = (1, 3, 2, 1)
"""Components of each image."""
SURE = 1e-4
"""p of a Kolmogorov-Smirnov test below which a sample is of another distribution."""


def make_mixture(counts=COUNTS):
    most = max(counts)
    log_weights = numbers(len(counts), most, key="weights")
    for image, count in enumerate(counts):
        log_weights[image, count:] = -math.inf
    matrix = numbers(len(counts), most, LATENT, LATENT, key="precision")
    mu = 3 * numbers(len(counts), most, LATENT, key="mu")
    L = torch.linalg.cholesky(matrix @ matrix.mT + torch.eye(LATENT).double())
    return StudentTMixture(log_weights, mu, L, DEGREES)


def scipys(q, image):
    """The weights of an image's components, and scipy's distribution of each."""
    P = q.cholesky @ q.cholesky.mT
    of_components = [
        multivariate_t(q.mu[image, m].numpy(), torch.linalg.inv(P[image, m]).numpy(), df=DEGREES)
        for m in range(COUNTS[image])
    ]
    return q.log_weights[image, : COUNTS[image]].exp().numpy(), of_components


def test_the_density_is_the_weighted_sum_of_scipys():
    q, z = make_mixture(), 2 * numbers(6, IMAGES, LATENT, key="z")
    for image in range(IMAGES):
        weights, components = scipys(q, image)
        assert weights.sum() == pytest.approx(1)
        terms = np.stack([component.logpdf(z[:, image]) for component in components])
        expected = torch.from_numpy(logsumexp(terms, axis=0, b=weights[:, None]))
        torch.testing.assert_close(q.log_prob(z)[:, image], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("counts", [COUNTS, (1, 1)])
def test_log_q_of_a_sample_is_the_density_there(counts):
    q = make_mixture(counts)
    z, log_q = q.rsample_with_log_prob(numbers(50, len(counts), q.noise_dim, key="eps"))
    torch.testing.assert_close(log_q, q.log_prob(z), rtol=1e-10, atol=1e-10)


def test_samples_have_the_density():
    """A projection of a Student t is one: the distribution function of any projection of the mixture is known."""
    q, along = make_mixture(), numbers(LATENT, key="direction").numpy()
    z, _ = q.rsample_with_log_prob(numbers(20_000, IMAGES, q.noise_dim, key="eps"))
    for image in range(IMAGES):
        weights, components = scipys(q, image)
        marginals = [t(DEGREES, c.loc @ along, (along @ c.shape @ along) ** 0.5) for c in components]

        def cdf(values, weights=weights, marginals=marginals):
            return sum(w * marginal.cdf(values) for w, marginal in zip(weights, marginals, strict=True))

        assert kstest(z[:, image].numpy() @ along, cdf).pvalue > SURE


def test_distances_from_the_centre_have_the_f_distribution():
    """|L'(z - mu)|^2 / latent of one component: a Student t has one divisor for all of its dimensions."""
    q = make_mixture((1,))
    z, _ = q.rsample_with_log_prob(numbers(20_000, 1, q.noise_dim, key="eps"))
    squares = ((z - q.mu[:, 0]) @ q.cholesky[0, 0]).square().sum(-1)[:, 0] / LATENT
    assert kstest(squares.numpy(), f(LATENT, DEGREES).cdf).pvalue > SURE


def test_the_gradient_is_that_of_automatic_differentiation():
    q, z = make_mixture(), numbers(6, IMAGES, LATENT, key="z").requires_grad_()
    expected = torch.autograd.grad(q.log_prob(z).sum(), z)[0]
    value, gradient = q.value_and_gradient(z.detach())
    torch.testing.assert_close(value, q.log_prob(z).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(q.gradient(z.detach()), gradient)


def test_a_component_without_weight_is_never_drawn():
    """Not even where the uniform number that chooses a component is 1, and rounded weights sum to less."""
    log_weights, mu = numbers(100, 4, key="rounded").float(), torch.zeros(100, 4, 2)
    log_weights[:, 3], mu[:, 3] = -math.inf, 1000.0
    q = StudentTMixture(log_weights, mu, torch.eye(2).expand(100, 4, 2, 2), DEGREES)
    assert (q.log_weights.exp().cumsum(-1)[:, 2] < 1).any(), "all round upwards: no test"
    eps = torch.ones(1, 100, q.noise_dim)
    eps[..., -1] = 12.0
    assert torch.special.ndtr(eps[..., -1]).min() == 1
    assert q.rsample_with_log_prob(eps)[0].abs().max() < 100


def test_it_is_a_family_member():
    q, z = make_mixture(), numbers(6, IMAGES, LATENT, key="z")
    assert isinstance(q, FamilyMember)
    assert all(len(p) == IMAGES for p in q.parameters())
    again, eps = q.with_parameters(*q.parameters()), numbers(6, IMAGES, q.noise_dim, key="eps")
    for ours, expected in zip(again.rsample_with_log_prob(eps), q.rsample_with_log_prob(eps), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    trained = q.with_parameters(*(p.clone().requires_grad_() for p in q.parameters()))
    assert trained.log_prob(z).requires_grad
    assert not trained.detach().log_prob(z).requires_grad
    assert torch.equal(trained.detach().log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("chosen", [[0, 3], [1], [0, 1, 2]])
def test_chosen_images_keep_their_mixture(chosen):
    q, eps = make_mixture(), numbers(50, IMAGES, make_mixture().noise_dim, key="eps")
    where = torch.tensor([image in chosen for image in range(IMAGES)])
    expected = q.rsample_with_log_prob(eps)
    for few in (q.select(where), select_images(q, where)):
        found = few.rsample_with_log_prob(eps[:, where])
        assert few.components.tolist() == [COUNTS[image] for image in chosen]
        for ours, of_all in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, of_all[:, where], rtol=1e-12, atol=1e-12)
    assert q.select(where).mu.shape[1] == max(COUNTS[image] for image in chosen)
    assert len(q.select(torch.zeros(IMAGES, dtype=torch.bool)).mu) == 0
