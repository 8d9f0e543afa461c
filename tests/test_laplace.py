"""The Newton step without a differentiated precision, against the dense one with everything differentiated."""

import pytest
import torch
from conftest import (
    IMAGES,
    LATENT,
    NETWORKS,
    assert_same_gradients,
    forward_mode,
    given,
    linear,
    make_decoder,
    make_images,
    make_model,
    make_output,
    numbers,
    pixels_of,
    scalar_gradients,
)
from scipy.optimize import minimize
from torch import nn
from torch.distributions import MultivariateNormal

from vlae.distributions.laplace import find_modes, laplace, newton_step
from vlae.distributions.outputs import BernoulliOutput
from vlae.distributions.posteriors import standard_normal_log_prob
from vlae.models.vlae import VLAE
from vlae.training.objective import sample_terms

pytestmark = forward_mode

OUTPUTS = ["gaussian", "bernoulli", "clamped"]


def output_named(name):
    return BernoulliOutput(clamp=0.2) if name == "clamped" else make_output(name).double()


def images_for(output, **keys):
    return make_images("bernoulli" if output.support == "binary" else "gaussian", **keys)


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("keys", NETWORKS)
def test_the_newton_step_equals_the_dense_step_with_gradients(name, keys):
    """Smooth units: the Jacobian changes with z and every weight, in g and in P."""
    output, decoder = output_named(name), make_decoder(**keys)
    x = images_for(output, pixels=pixels_of(keys)).requires_grad_()
    z, weight = numbers(IMAGES, LATENT).requires_grad_(), numbers(IMAGES, LATENT, key="weight")
    ours = newton_step(output.likelihood(decoder, x), decoder, z)
    dense = dense_step(output, decoder, x, z)
    torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-11)
    parts = nn.ModuleList([decoder, output])
    gradients = [scalar_gradients((step * weight).sum(), parts, z, x) for step in (ours, dense)]
    assert len(gradients[0]) == len(list(parts.parameters())) + 2
    assert_same_gradients(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("keys", [{}, *NETWORKS])
def test_three_updates_give_the_elbo_and_gradients_of_dense_vlae(name, keys):
    pixels = pixels_of(keys)
    model = make_model(VLAE, name, num_updates=3, damping=0.7, pixels=pixels, **keys)
    x, eps = make_images(name, pixels=pixels), numbers(2, IMAGES, LATENT, key="eps")
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


def test_one_step_reaches_the_posterior_mean_of_a_linear_decoder():
    output, decoder, x = output_named("gaussian"), make_decoder((6, 4)), make_images("gaussian")
    W, b = linear(decoder)
    s2 = output.log_variance.exp()
    mean = torch.linalg.solve(W.T @ W / s2 + torch.eye(LATENT).double(), W.T @ (x - b).T / s2).T
    for distance in (0.0, 1.0, 100.0):
        z = distance * numbers(IMAGES, LATENT)
        step = newton_step(output.likelihood(decoder, x), decoder, z)
        torch.testing.assert_close(z + step, mean, rtol=0, atol=1e-12 * (1 + distance))


def test_repeated_steps_find_the_mode_of_a_bernoulli_decoder():
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
def test_an_error_of_the_precision_enters_the_step_squared(name, monkeypatch):
    """The factor may be computed with few digits: the correction is one step of iterative refinement."""
    output, decoder, x, z = output_named(name), make_decoder(), make_images(name), numbers(IMAGES, LATENT)
    likelihood = output.likelihood(decoder, x)
    exact, precision = newton_step(likelihood, decoder, z), likelihood.precision
    for error in (1e-2, 1e-4):
        monkeypatch.setattr(likelihood, "precision", lambda at, error=error: precision(at) * (1 + error))
        wrong = (newton_step(likelihood, decoder, z) - exact).abs().max() / exact.abs().max()
        assert 0.5 * error**2 < wrong < 2 * error**2


@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
def test_the_laplace_posterior_has_the_precision_at_its_mean(name):
    output, decoder, x, mu = output_named(name), make_decoder(), make_images(name), numbers(IMAGES, LATENT)
    _, P = dense_terms(output, decoder, x, mu)
    z, log_q = laplace(output.likelihood(decoder, x), decoder, mu).rsample_with_log_prob(
        numbers(5, IMAGES, LATENT)
    )
    expected = MultivariateNormal(mu, precision_matrix=P).log_prob(z)
    torch.testing.assert_close(log_q, expected, rtol=1e-11, atol=1e-11)


# --- modes -----------------------------------------------------------------------------------------------------


def log_joint(output, decoder, x, z):
    return output.log_prob(x, decoder(z)) + standard_normal_log_prob(z)


@pytest.mark.parametrize("name", OUTPUTS[:2])
def test_mode_is_where_another_optimiser_finds_it(name):
    """scipy's BFGS with automatic differentiation; a linear decoder has one mode, and no kinks."""
    output, decoder = output_named(name), make_decoder((6, 8))
    linear(decoder)
    x = images_for(output)
    modes = find_modes(output, decoder, x, 3 * numbers(IMAGES, LATENT, key="start"), tolerance=1e-18)
    assert modes.converged.all()
    for image, z in zip(x, modes.z, strict=True):

        def loss(value, image=image):
            at = torch.from_numpy(value).requires_grad_()
            negative = -log_joint(output, decoder, image[None], at[None]).sum()
            (gradient,) = torch.autograd.grad(negative, at)
            return negative.item(), gradient.numpy()

        found = minimize(loss, torch.zeros(LATENT).double().numpy(), jac=True, options={"gtol": 1e-10})
        torch.testing.assert_close(z, torch.from_numpy(found.x), rtol=0, atol=1e-7)


def test_mode_of_a_linear_gaussian_model_takes_one_step():
    output, decoder = output_named("gaussian"), make_decoder((6, 8))
    linear(decoder)
    modes = find_modes(output, decoder, images_for(output), numbers(IMAGES, LATENT, key="start"))
    assert modes.steps.tolist() == [1] * IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS[:2])
def test_the_mode_search_never_descends_and_reports_its_end(name):
    """A mode of ReLU units may lie on a kink, where no gradient vanishes."""
    images, tolerance = 60, 1e-6
    output, decoder = output_named(name), make_decoder((6, 5))
    x = make_images(name, images)
    start = 5 * numbers(images, LATENT, key="start")
    modes = find_modes(output, decoder, x, start, tolerance=tolerance, max_steps=500)
    before, after = log_joint(output, decoder, x, start), log_joint(output, decoder, x, modes.z)
    assert (after >= before).all()
    g, P = dense_terms(output, decoder, x, modes.z)
    promised = 0.5 * (g * torch.linalg.solve(P, g)).sum(-1)
    assert (promised[modes.converged] < tolerance).all()
    assert (promised[modes.stalled] >= tolerance).all()
    assert (modes.converged ^ modes.stalled).all()
    assert 0 < modes.converged.sum() < images, "nothing to tell apart"
    for key in range(20):  # nothing near is better
        near = modes.z + 1e-3 * numbers(images, LATENT, key=f"near {key}")
        better = log_joint(output, decoder, x, near) - after
        assert better[modes.converged].max() < tolerance


@pytest.mark.slow
def test_modes_do_not_depend_on_the_batch():
    output, decoder = output_named("bernoulli"), make_decoder((6, 5))
    x, start = images_for(output), 5 * numbers(IMAGES, LATENT, key="start")
    together = find_modes(output, decoder, x, start)
    for i in range(IMAGES):
        alone = find_modes(output, decoder, x[i : i + 1], start[i : i + 1])
        torch.testing.assert_close(alone.z, together.z[i : i + 1])
        assert alone.steps == together.steps[i]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("name", OUTPUTS[:2])
def test_a_converged_search_would_gain_little(name, activation):
    """A few hundredths of a nat for most images, from starts far outside; a stalled one may find a way on."""
    images = 64
    decoder, output = make_decoder((16, 16), pixels=12, activation=activation), output_named(name)
    x, start = make_images(name, images, 12), 3 * numbers(images, LATENT, key="start")
    ended = find_modes(output, decoder, x, start)
    assert (ended.converged ^ ended.stalled).all()
    further = find_modes(output, decoder, x, ended.z, tolerance=1e-7, max_steps=1000)
    gain = log_joint(output, decoder, x, further.z) - log_joint(output, decoder, x, ended.z)
    assert gain.quantile(0.9) < 0.03
    assert gain.mean() < 0.1
    if activation != "relu":  # no kinks: gradients vanish
        assert ended.converged.double().mean() > 0.9
