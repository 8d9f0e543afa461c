"""Gaps against closed forms: with a linear Gaussian decoder the best member of each family is known."""

import pytest
import torch
from conftest import IMAGES, OUTPUTS, PIXELS, linear, make_images, make_model, numbers
from torch.distributions import MultivariateNormal

from vlae.gaps import measure_gaps
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE


@torch.no_grad()
def linear_model(kind, **keys):
    """(model, images, log p(x), posterior precision)."""
    model, x = make_model(kind, "gaussian", hidden_dims=(8, 6), **keys), make_images("gaussian")
    W, b = linear(model.decoder)
    x = x / 3  # posteriors not further from the truth than those of trained models
    variance = model.output.log_variance.exp()
    P = W.T @ W / variance + torch.eye(W.shape[1]).double()
    evidence = MultivariateNormal(b, W @ W.T + variance * torch.eye(PIXELS).double()).log_prob(x)
    return model, x, evidence, P


@pytest.mark.parametrize("kind", [VAE, SAVAE])
def test_best_diagonal_gaussian_has_the_diagonal_of_the_precision(kind):
    """ELBO(q*) = log p(x) - (sum log P_ii - log det P) / 2 (Turner and Sahani 2011)."""
    model, x, evidence, P = linear_model(kind)
    gaps = measure_gaps(model, x, seed=0, steps=1000)
    expected = evidence - 0.5 * (P.diagonal().log().sum() - torch.logdet(P))
    torch.testing.assert_close(gaps.optimal_elbo, expected, rtol=0, atol=0.15)
    assert torch.all(gaps.optimal_elbo - gaps.elbo > 1), "nothing to gain: no test"


def test_best_full_covariance_gaussian_is_the_posterior_itself():
    """Its log-weights are all log p(x): no noise in the figure, no approximation gap."""
    model, x, evidence, _ = linear_model(VLAE, num_updates=1)
    gaps = measure_gaps(model, x, seed=0, steps=1000)
    torch.testing.assert_close(gaps.optimal_elbo, evidence, rtol=0, atol=0.02)
    assert torch.all(evidence - gaps.elbo > 0.1), "nothing to gain: no test"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", [VAE, SAVAE, HF, IAF, VLAE])
def test_the_best_member_is_never_worse_and_an_image_depends_on_no_other(kind, output):
    model, x = make_model(kind, output), make_images(output)
    gaps = measure_gaps(model, x, seed=0, steps=40)
    assert torch.all(gaps.optimal_elbo >= gaps.elbo)
    assert torch.any(gaps.optimal_elbo > gaps.elbo)
    others = numbers(IMAGES, PIXELS, key="others") if output == "gaussian" else 1 - x
    others[0] = x[0]
    tolerance = (
        1e-5 if kind is SAVAE else 1e-8
    )  # its inference differs by rounding, which the ascent magnifies
    again = measure_gaps(model, others, seed=0, steps=40)
    torch.testing.assert_close(again.optimal_elbo[0], gaps.optimal_elbo[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(again.elbo[0], gaps.elbo[0], rtol=0, atol=1e-8)


def test_iterations_are_the_refinements_of_inference():
    x = make_images("gaussian")
    found = [
        measure_gaps(make_model(kind, "gaussian", **keys), x, seed=0, steps=1).iterations
        for kind, keys in ((VAE, {}), (VLAE, {"num_updates": 3}), (SAVAE, {"num_steps": 2}))
    ]
    assert found == [0, 3, 2]


def test_the_model_is_left_as_it_was():
    model, x = make_model(IAF, "gaussian"), make_images("gaussian")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_gaps(model, x, seed=0, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
