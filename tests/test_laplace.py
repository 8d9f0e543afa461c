"""The Newton step without a differentiated precision, against the dense one with everything differentiated."""

import pytest
import torch
from conftest import (
    IMAGES,
    LATENT,
    assert_same_gradients,
    forward_mode,
    given,
    linear,
    make_decoder,
    make_images,
    make_model,
    make_output,
    numbers,
    scalar_gradients,
)
from torch import nn
from torch.distributions import MultivariateNormal

from vlae.distributions import BernoulliOutput, standard_normal_log_prob
from vlae.laplace import laplace, newton_step
from vlae.models.vlae import VLAE
from vlae.objective import sample_terms

pytestmark = forward_mode

OUTPUTS = ["gaussian", "bernoulli", "clamped"]


def output_named(name):
    return BernoulliOutput(clamp=0.2) if name == "clamped" else make_output(name).double()


def images_for(output):
    return make_images("bernoulli" if output.support == "binary" else "gaussian")


def dense_terms(output, decoder, x, z):
    """(g, P) with the [batch, pixels, latent] Jacobian of automatic differentiation."""
    f, J = decoder(z), torch.func.vmap(torch.func.jacfwd(decoder))(z)
    if output.support == "binary":
        score, V = output.score(x, f), output.curvature(f)
    else:
        V = torch.exp(-output.log_variance).expand_as(f)
        score = (x - f) * V
    g = torch.einsum("bpi,bp->bi", J, score) - z
    return g, torch.einsum("bpi,bp,bpj->bij", J, V, J) + torch.eye(z.shape[-1]).to(z)


def dense_step(output, decoder, x, z):
    g, P = dense_terms(output, decoder, x, z)
    return torch.linalg.solve(P, g)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("hidden_dims", [(6,), (6, 5), (6, 5, 9)])
def test_newton_step_has_the_value_and_every_gradient_of_the_dense_step(name, hidden_dims):
    output, decoder = output_named(name), make_decoder(hidden_dims)
    x, z = images_for(output).requires_grad_(), numbers(IMAGES, LATENT).requires_grad_()
    ours = newton_step(output.likelihood(decoder, x), decoder, z)
    dense = dense_step(output, decoder, x, z)
    torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-11)
    weight, parts = numbers(IMAGES, LATENT, key="weight"), nn.ModuleList([decoder, output])
    gradients = [scalar_gradients((step * weight).sum(), parts, z, x) for step in (ours, dense)]
    assert {"input 0", "input 1", "0.body.0.weight", "0.last.weight", "0.last.bias"} <= gradients[0].keys()
    assert ("1.log_variance" in gradients[0]) == (name == "gaussian")
    assert_same_gradients(*gradients)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
def test_elbo_after_three_chained_updates_has_the_value_and_every_gradient_of_the_dense_vlae(name):
    model = make_model(VLAE, name, num_updates=3, damping=0.7)
    x, eps = make_images(name), numbers(2, IMAGES, LATENT, key="eps")
    weight = numbers(2, IMAGES, key="weight")

    mu = model.mu(model.encoder(x))
    for t in range(3):
        mu = mu + 0.7 / (t + 1) * dense_step(model.output, model.decoder, x, mu)
    _, P = dense_terms(model.output, model.decoder, x, mu)
    L = torch.linalg.cholesky(P)
    z = mu + torch.linalg.solve(L.mT, eps.unsqueeze(-1)).squeeze(-1)
    log_q = MultivariateNormal(mu, precision_matrix=P).log_prob(z)
    dense = model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) - log_q

    ours = sample_terms(model, x, given(eps), 2).log_weights
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)
    gradients = [scalar_gradients((log_w * weight).sum(), model) for log_w in (ours, dense)]
    assert len(gradients[0]) == len(list(model.parameters()))
    assert_same_gradients(*gradients)


def test_one_step_reaches_the_exact_posterior_mean_of_a_linear_gaussian_decoder_from_anywhere():
    output, decoder, x = output_named("gaussian"), make_decoder((6, 4)), make_images("gaussian")
    W, b = linear(decoder)
    s2 = output.log_variance.exp()
    mean = torch.linalg.solve(W.T @ W / s2 + torch.eye(LATENT).double(), W.T @ (x - b).T / s2).T
    for distance in (0.0, 1.0, 100.0):
        z = distance * numbers(IMAGES, LATENT)
        step = newton_step(output.likelihood(decoder, x), decoder, z)
        torch.testing.assert_close(z + step, mean, rtol=0, atol=1e-12 * (1 + distance))


def test_repeated_steps_end_where_the_gradient_of_a_linear_bernoulli_decoders_log_joint_vanishes():
    output, decoder, x = output_named("bernoulli"), make_decoder((6, 4)), make_images("bernoulli")
    linear(decoder)
    z = torch.zeros(IMAGES, LATENT).double()
    for _ in range(20):
        z = (z + newton_step(output.likelihood(decoder, x), decoder, z)).detach()
    z = z.requires_grad_()
    log_joint = output.log_prob(x, decoder(z)) + standard_normal_log_prob(z)
    (gradient,) = torch.autograd.grad(log_joint.sum(), z)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
def test_a_relative_error_of_the_factorised_precision_enters_the_step_squared(name, monkeypatch):
    """So the factor may be computed with few digits: the correction is one step of iterative refinement."""
    output, decoder, x, z = output_named(name), make_decoder(), make_images(name), numbers(IMAGES, LATENT)
    likelihood = output.likelihood(decoder, x)
    exact, precision = newton_step(likelihood, decoder, z), likelihood.precision
    for error in (1e-2, 1e-4):
        monkeypatch.setattr(likelihood, "precision", lambda at, error=error: precision(at) * (1 + error))
        wrong = (newton_step(likelihood, decoder, z) - exact).abs().max() / exact.abs().max()
        assert 0.5 * error**2 < wrong < 2 * error**2


@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
def test_laplace_posterior_is_the_gaussian_with_the_precision_at_its_mean(name):
    output, decoder, x, mu = output_named(name), make_decoder(), make_images(name), numbers(IMAGES, LATENT)
    _, P = dense_terms(output, decoder, x, mu)
    z, log_q = laplace(output.likelihood(decoder, x), decoder, mu).rsample_with_log_prob(
        numbers(5, IMAGES, LATENT)
    )
    expected = MultivariateNormal(mu, precision_matrix=P).log_prob(z)
    torch.testing.assert_close(log_q, expected, rtol=1e-11, atol=1e-11)
