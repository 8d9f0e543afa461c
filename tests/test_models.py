"""Each model's posterior against closed forms and brute force, and the contract that all of conf/model keeps."""

import importlib
import itertools
import math
from pathlib import Path

import pytest
import torch
from conftest import (
    HIDDEN,
    IMAGES,
    LATENT,
    OUTPUTS,
    PIXELS,
    assert_same_gradients,
    given,
    linear,
    make_images,
    make_model,
    make_output,
    noise,
    numbers,
    scalar_gradients,
    sigma_points,
)
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import MultivariateNormal

from vlae.distributions.laplace import newton_step
from vlae.distributions.posteriors import (
    ClosedFormKL,
    DiagonalGaussian,
    FamilyMember,
    standard_normal_log_prob,
)
from vlae.models.backbone import Backbone
from vlae.models.fullcov import FullCovariance
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE, OriginalSAVAE, ascent_step, original_step, refine
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.models.vlae_newton import HALVINGS, VLAENewton
from vlae.nn.networks import initialise
from vlae.seeding import generator, image_noise
from vlae.training.objective import elbo, importance_weighted_bound, sample_terms


def jacobians(outputs, inputs):
    """d outputs / d inputs [..., i, j] where the leading axes do not interact, row by row."""
    rows = [
        torch.autograd.grad(o.sum(), inputs, retain_graph=True, allow_unused=True)[0]
        for o in outputs.unbind(-1)
    ]
    return torch.stack([torch.zeros_like(inputs) if row is None else row for row in rows], -2)


# --- VLAE ------------------------------------------------------------------------------------------------------


def probabilistic_pca(**keys):
    """VLAE with an exactly linear decoder: (model, x, W, b, s2)."""
    model = make_model(VLAE, "gaussian", hidden_dims=(8, 6), **keys)
    W, b = linear(model.decoder)
    return model, make_images("gaussian"), W, b, model.output.log_variance.exp()


def exact_posterior(x, W, b, s2):
    P = W.T @ W / s2 + torch.eye(W.shape[1]).double()
    return torch.linalg.solve(P, W.T @ (x - b).T / s2).T, P


@torch.no_grad()
def test_vlae_log_weights_of_a_linear_decoder_are_the_log_evidence():
    """Probabilistic PCA: q is the exact posterior, so p(x, z) / q(z | x) = N(x; b, WW' + s2 I) at every z."""
    model, x, W, b, s2 = probabilistic_pca(num_updates=1, damping=1.0)
    z = numbers(50, LATENT)
    torch.testing.assert_close(model.decoder(z), z @ W.T + b, rtol=1e-12, atol=1e-12)
    log_evidence = MultivariateNormal(b, W @ W.T + s2 * torch.eye(PIXELS).double()).log_prob(x)
    log_w = sample_terms(model, x, noise(), 100).log_weights
    assert (log_w - log_evidence).abs().max() < 1e-9
    assert (elbo(log_w) - log_evidence).abs().max() < 1e-9
    assert (importance_weighted_bound(log_w) - log_evidence).abs().max() < 1e-9


@torch.no_grad()
def test_vlae_of_a_linear_decoder_is_the_exact_posterior():
    model, x, W, b, s2 = probabilistic_pca(num_updates=1, damping=1.0)
    mean, P = exact_posterior(x, W, b, s2)
    q = model.posterior(x, noise())
    torch.testing.assert_close(q.mu, mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.cholesky @ q.cholesky.mT, P.expand(IMAGES, -1, -1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("updates", "left"), [(1, 0.5), (2, 0.375), (4, 0.2734375), (8, 0.196380615234375)])
@torch.no_grad()
def test_damping_contracts_by_a_central_binomial_coefficient(updates, left):
    """prod_t (1 - 0.5/(t+1)) = C(2T, T) / 4^T, whatever the image and wherever the encoder starts."""
    assert left == math.comb(2 * updates, updates) / 4**updates
    model, x, W, b, s2 = probabilistic_pca(num_updates=updates)
    mode, _ = exact_posterior(x, W, b, s2)
    path = model.refinements(x, noise())
    assert (path[0] - mode).abs().min() > 1e-3, "the encoder must not already be there"
    torch.testing.assert_close(path[-1] - mode, left * (path[0] - mode), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.posterior(x, noise()).mu, path[-1])


# --- full covariance -------------------------------------------------------------------------------------------


def maximise(value, parameters):
    """Newton-like ascent of a smooth function, to its maximum."""
    options = {"max_iter": 2000, "tolerance_grad": 1e-11, "tolerance_change": 0, "history_size": 50}
    optimizer = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe", **options)

    def loss():
        optimizer.zero_grad()
        negative = -value()
        negative.backward()
        return negative

    optimizer.step(loss)


def exact_elbo(model, x, q):
    """The ELBO of a linear decoder: log p(x, z) is quadratic in z, and the sigma points give its mean exactly."""
    z, _ = q.rsample_with_log_prob(sigma_points(len(x), LATENT))
    return (model.output.log_prob(x, model.decoder(z)).mean(0) - q.kl_to_prior()).sum()


def covariance(q):
    columns = torch.eye(LATENT).double().unsqueeze(1).expand(-1, len(q.mu), -1)
    factor = (q.rsample_with_log_prob(columns)[0] - q.mu).permute(1, 2, 0)
    return factor @ factor.mT


def full_covariance_pca():
    """FullCovariance with a linear decoder, and an encoder whose features are relu(x) and relu(-x)."""
    model = make_model(FullCovariance, "gaussian", hidden_dims=(2 * PIXELS,))
    model.requires_grad_(False)
    W, b = linear(model.decoder)
    first = model.encoder.linears[0]
    first.weight.copy_(torch.cat([torch.eye(PIXELS), -torch.eye(PIXELS)]))
    first.bias.zero_()
    return model, W, b, model.output.log_variance.exp()


def assert_exact_posterior(q, x, W, b, s2):
    mean, P = exact_posterior(x, W, b, s2)
    torch.testing.assert_close(q.mu, mean, rtol=1e-5, atol=1e-5)
    exact = torch.linalg.inv(P).expand(len(x), -1, -1)
    torch.testing.assert_close(covariance(q), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [FullCovariance, VLAE])
def test_the_best_full_covariance_member_is_the_exact_posterior(kind):
    """Gradient ascent on an image's own parameters finds it, be they of the covariance or the precision."""
    model, x = make_model(kind, "gaussian", hidden_dims=(8, 6)), make_images("gaussian")
    model.requires_grad_(False)
    W, b = linear(model.decoder)
    q = model.posterior(x, noise())
    best = [p.clone().requires_grad_() for p in q.parameters()]
    assert (q.mu - exact_posterior(x, W, b, model.output.log_variance.exp())[0]).abs().max() > 0.1
    maximise(lambda: exact_elbo(model, x, q.with_parameters(*best)), best)
    assert_exact_posterior(q.with_parameters(*best), x, W, b, model.output.log_variance.exp())


@pytest.mark.slow
def test_full_covariance_heads_learn_the_exact_posterior():
    model, W, b, s2 = full_covariance_pca()
    x = numbers(60, PIXELS, key="seen")
    heads = nn.ModuleList([model.amortised, model.below]).requires_grad_()
    maximise(lambda: exact_elbo(model, x, model.posterior(x, noise(60))), list(heads.parameters()))
    new = make_images("gaussian")
    assert_exact_posterior(model.posterior(new, noise()), new, W, b, s2)


# --- VLAE with backtracking ------------------------------------------------------------------------------------


@torch.no_grad()
def test_one_newton_update_reaches_the_mode_of_a_linear_decoder():
    """Every log-weight is then the log-evidence."""
    model = make_model(VLAENewton, "gaussian", hidden_dims=(8, 6), num_updates=1)
    x, (W, b), s2 = make_images("gaussian"), linear(model.decoder), model.output.log_variance.exp()
    mode, _ = exact_posterior(x, W, b, s2)
    log_evidence = MultivariateNormal(b, W @ W.T + s2 * torch.eye(PIXELS).double()).log_prob(x)
    for distance in (0.1, 10.0, 1000.0):
        model.mu.bias.fill_(distance)
        start, reached = model.refinements(x, noise())
        assert (start - mode).abs().max() > distance / 2
        torch.testing.assert_close(reached, mode, rtol=0, atol=1e-11 * distance + 1e-11)
        log_w = sample_terms(model, x, noise(), 100).log_weights
        assert (log_w - log_evidence).abs().max() < 1e-8


def far_from_the_mode(output):
    """(model, x) for which full steps overshoot."""
    model, x = make_model(VLAENewton, output, num_updates=6), make_images(output)
    with torch.no_grad():
        for layer in model.decoder.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2)
        model.mu.weight.mul_(5)
    return model, x


def step_lengths(model, x, path):
    """Share of the full step taken by each update: [updates, batch]."""
    likelihood = model.output.likelihood(model.decoder, x)
    steps = [newton_step(likelihood, model.decoder, mu) for mu in path[:-1]]
    taken = torch.stack([after - before for before, after in itertools.pairwise(path)])
    return (taken * torch.stack(steps)).sum(-1) / torch.stack(steps).square().sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@torch.no_grad()
def test_newton_updates_never_lower_log_p(output):
    model, x = far_from_the_mode(output)
    path = model.refinements(x, noise())
    values = torch.stack([model.log_joint(x, mu) for mu in path])
    assert (values.diff(dim=0) >= -1e-13 * values[:-1].abs()).all()
    assert (values[-1] - values[0] > 0.1).all()
    lengths = step_lengths(model, x, path)
    assert lengths.min() < 0.6, "a full step must overshoot somewhere, or the test says nothing"
    likelihood = model.output.likelihood(model.decoder, x)
    for mu, value, length in zip(path, values, lengths, strict=False):
        step = newton_step(likelihood, model.decoder, mu)
        for image, a in enumerate(length.tolist()):
            tried = [0.5**n for n in range(HALVINGS + 1)]
            ups = [
                t
                for t in tried
                if (model.log_joint(x, mu + t * step) - value)[image] > -1e-13 * value[image].abs()
            ]
            assert a == pytest.approx(ups[0] if ups else 0.0, rel=1e-9)


def test_gradients_of_vlae_newton_are_those_of_its_accepted_steps():
    """The lengths are constants: beside them it is VLAE, whose gradients are those of the dense step."""
    model, x = far_from_the_mode("gaussian")
    path = model.refinements(x, noise())
    lengths = step_lengths(model, x, [mu.detach() for mu in path]).detach()
    likelihood, mu = model.output.likelihood(model.decoder, x), model.mu(model.encoder(x))
    for length in lengths:
        mu = mu + length.unsqueeze(-1) * newton_step(likelihood, model.decoder, mu)
    weight = numbers(IMAGES, LATENT, key="weight")
    ours, expected = (scalar_gradients((m * weight).sum(), model) for m in (path[-1], mu))
    assert {"mu.weight", "decoder.last.weight", "output.log_variance"} <= ours.keys()
    assert_same_gradients(ours, expected, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@torch.no_grad()
def test_backtracking_of_an_image_does_not_depend_on_its_batch(output):
    model, x = far_from_the_mode(output)
    together = model.refinements(x, noise())[-1]
    for image in range(IMAGES):
        alone = model.refinements(x[image : image + 1], noise(1))[-1]
        torch.testing.assert_close(alone, together[image : image + 1], rtol=1e-9, atol=1e-9)


# --- Householder flow ------------------------------------------------------------------------------------------


def householder_matrices(model, x):
    """The reflections of each image, explicitly: [[batch, latent, latent], ...], the first first."""
    matrices, v = [], model.encoder(x)
    for normal in model.normals:
        v = normal(v)
        outer = v.unsqueeze(-1) * v.unsqueeze(-2)
        matrices.append(torch.eye(v.shape[-1]) - 2 * outer / v.square().sum(-1)[:, None, None])
    return matrices


@pytest.mark.parametrize("flows", [1, 2, 3])
def test_householder_flow_is_the_product_of_its_reflections_and_orthogonal(flows):
    model, x = make_model(HF, "gaussian", num_flows=flows), make_images("gaussian")
    z0 = numbers(5, IMAGES, LATENT).requires_grad_()
    z, log_det = model.posterior(x, noise()).flow(z0)
    H = torch.eye(LATENT).double()
    for reflection in householder_matrices(model, x):
        H = reflection @ H
    torch.testing.assert_close(z, torch.einsum("bij,sbj->sbi", H, z0), rtol=1e-11, atol=1e-11)
    J = jacobians(z, z0)
    torch.testing.assert_close(J.mT @ J, torch.eye(LATENT).double().expand_as(J), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(J), torch.full((5, IMAGES), (-1.0) ** flows).double())
    assert torch.equal(log_det, torch.zeros(5, IMAGES).double())


@torch.no_grad()
def test_householder_posterior_is_the_rotated_gaussian():
    """N(H mu, H diag(sigma^2) H'): the reason for the flow is its full covariance."""
    model, x = make_model(HF, "gaussian", num_flows=2), make_images("gaussian")
    first, second = householder_matrices(model, x)
    mu, log_variance = model.amortised(model.encoder(x))
    H = second @ first
    covariance = H @ torch.diag_embed(log_variance.exp()) @ H.mT
    z, log_q = model.posterior(x, noise()).rsample_with_log_prob(numbers(5, IMAGES, LATENT))
    expected = MultivariateNormal((H @ mu.unsqueeze(-1)).squeeze(-1), covariance).log_prob(z)
    torch.testing.assert_close(log_q, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_two_equal_householder_reflections_are_the_identity():
    model, x = make_model(HF, "gaussian", num_flows=2), make_images("gaussian")
    model.normals[1].weight.copy_(torch.eye(LATENT))  # v_2 = v_1
    model.normals[1].bias.zero_()
    z0 = numbers(5, IMAGES, LATENT)
    torch.testing.assert_close(model.posterior(x, noise()).flow(z0)[0], z0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("flows", [1, 2, 3])
@torch.no_grad()
def test_householder_flow_is_torchs_householder_product(flows):
    """The normals have the form of LAPACK: v_t begins with t - 1 zeros and a one. Its product is H_1 H_2 ..."""
    model, x = make_model(HF, "gaussian", num_flows=flows), make_images("gaussian")
    v = model.encoder(x)
    columns, factors = torch.zeros(IMAGES, LATENT, LATENT).double(), torch.zeros(IMAGES, LATENT).double()
    for t, normal in enumerate(model.normals):
        normal.weight[: t + 1], normal.bias[:t], normal.bias[t] = 0.0, 0.0, 1.0
        v = normal(v)
        columns[:, :, t], factors[:, t] = v, 2 / v.square().sum(-1)
    H = torch.linalg.householder_product(columns, factors)
    z0 = numbers(5, IMAGES, LATENT)
    z, _ = model.posterior(x, noise()).flow(z0)
    torch.testing.assert_close(z, torch.einsum("bji,sbj->sbi", H, z0), rtol=1e-11, atol=1e-11)


# --- inverse autoregressive flow -------------------------------------------------------------------------------


def make_iaf(num_flows=2, conditional=True, latent_dim=LATENT, flow_hidden_dims=(12,), scale=1.5):
    """(model, x), the flow far from the identity."""
    model = make_model(
        IAF,
        "gaussian",
        latent_dim=latent_dim,
        num_flows=num_flows,
        flow_hidden_dims=flow_hidden_dims,
        conditional=conditional,
    )
    with torch.no_grad():
        for parameter in model.flows.parameters():
            parameter.mul_(scale)
    return model, make_images("gaussian")


def iaf_networks(model, x):
    return [flow(model.encoder(x)[:, : model.context_dim]) for flow in model.flows]


@pytest.mark.parametrize("flow_hidden_dims", [(12,), (12, 10)])
def test_autoregressive_outputs_see_all_and_only_previous_dimensions(flow_hidden_dims):
    model, x = make_iaf(flow_hidden_dims=flow_hidden_dims)
    before = torch.ones(LATENT, LATENT).tril(-1).bool()
    for network in iaf_networks(model, x):
        z = numbers(30, IMAGES, LATENT).requires_grad_()
        for outputs in network(z):
            seen = (jacobians(outputs, z) != 0).flatten(0, 1).any(0)
            assert torch.equal(seen, before)


def test_an_autoregressive_step_has_a_triangular_jacobian():
    model, x = make_iaf(num_flows=1)
    z0 = numbers(5, IMAGES, LATENT).requires_grad_()
    z, log_det = model.posterior(x, noise()).flow(z0)
    J = jacobians(z, z0)
    assert torch.all(J.triu(1) == 0)
    _, s = iaf_networks(model, x)[0](z0)
    torch.testing.assert_close(J.diagonal(dim1=-2, dim2=-1), torch.sigmoid(s), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(log_det, torch.sigmoid(s).log().sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("flows", [1, 2, 3, 4])
def test_autoregressive_flow_has_the_log_determinant_of_its_jacobian(flows, conditional):
    model, x = make_iaf(flows, conditional)
    z0 = numbers(5, IMAGES, LATENT).requires_grad_()
    z, log_det = model.posterior(x, noise()).flow(z0)
    expected = torch.linalg.slogdet(jacobians(z, z0))[1]
    assert expected.abs().min() > 1e-2
    torch.testing.assert_close(log_det, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("flows", [2, 3, 4])
def test_the_autoregressive_flow_is_gated_and_reverses_its_order(flows):
    """Undoing the reversals, each step's Jacobian is triangular, and the flow's is their product."""
    model, x = make_iaf(flows)
    z0 = numbers(5, IMAGES, LATENT).requires_grad_()
    ours, _ = model.posterior(x, noise()).flow(z0)
    z, product = z0.detach(), torch.eye(LATENT).double()
    reversal = torch.eye(LATENT).double().flip(0)
    for step, network in enumerate(iaf_networks(model, x)):
        if step > 0:
            z, product = z @ reversal, reversal @ product
        z = z.detach().requires_grad_()
        m, s = network(z)
        new = torch.sigmoid(s) * z + (1 - torch.sigmoid(s)) * m
        J = jacobians(new, z)
        assert torch.all(J.triu(1) == 0)
        z, product = new, J @ product
    if flows % 2 == 0:
        z, product = z @ reversal, reversal @ product
    torch.testing.assert_close(ours, z, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(jacobians(ours, z0), product, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("flows", [1, 2, 3])
@torch.no_grad()
def test_autoregressive_flow_with_open_gates_is_the_identity(flows):
    """Every reversal is undone."""
    model, x = make_iaf(flows)
    for flow in model.flows:
        flow.masked[-1].bias[LATENT:] = 1000.0
    z0 = numbers(5, IMAGES, LATENT)
    z, log_det = model.posterior(x, noise()).flow(z0)
    assert torch.equal(z, z0)
    assert torch.equal(log_det, torch.zeros(5, IMAGES).double())


@torch.no_grad()
def test_only_conditional_flows_depend_on_the_image():
    """z_0 is the same: the released code's mask on the context was all zero."""
    z0 = numbers(5, 1, LATENT).expand(-1, IMAGES, -1)
    for conditional in (True, False):
        model, x = make_iaf(1, conditional)
        z, log_det = model.posterior(x, noise()).flow(z0)
        z = torch.cat([z, log_det.unsqueeze(-1)], -1)
        differences = (z[:, 1:] - z[:, :1]).abs()
        assert differences.amin(0).max() > 1e-3 if conditional else differences.max() == 0
        assert not conditional or torch.all(differences.amax((0, 1)) > 1e-3)


def test_autoregressive_network_sees_every_number_of_its_context():
    model, x = make_iaf(1)
    context = model.encoder(x).detach().requires_grad_()
    z = numbers(30, IMAGES, LATENT)
    for outputs in model.flows[0](context)(z):
        rows = [torch.autograd.grad(o.sum(), context, retain_graph=True)[0] for o in outputs.unbind(-1)]
        assert torch.all(torch.stack(rows).abs().amax(1) > 0)


@pytest.mark.parametrize("flows", [1, 2, 3])
@torch.no_grad()
def test_autoregressive_flow_is_inverted_exactly(flows):
    model, x = make_iaf(flows, scale=1.0)
    flow = model.posterior(x, noise()).flow
    z = numbers(5, IMAGES, LATENT)
    z0, log_det = flow.inverse(z)
    again, forward = flow(z0)
    torch.testing.assert_close(again, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, forward, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("flows", [1, 2, 3])
@torch.no_grad()
def test_autoregressive_posterior_density_integrates_to_one(flows):
    """The integral is over a grid of foreign points."""
    model, x = make_iaf(flows, latent_dim=2, scale=0.8)  # so that the gates can be inverted far out
    x, side = x[:1], torch.linspace(-10, 10, 401, dtype=torch.float64)
    z = torch.cartesian_prod(side, side).unsqueeze(1)
    total = model.posterior(x, noise(1)).log_prob(z).exp().sum() * (side[1] - side[0]) ** 2
    assert abs(total - 1) < 3e-4


@torch.no_grad()
def test_flow_density_is_zero_where_its_inverse_overflows():
    model, x = make_iaf(3, scale=4.0)  # gates that close
    q, z = model.posterior(x, noise()), numbers(500, IMAGES, LATENT, key="foreign") * 3
    log_q = q.log_prob(z)
    assert 0.01 < (log_q == -math.inf).double().mean() < 0.99
    assert not log_q.isnan().any()
    z[0, 1, 2] = math.nan
    assert q.log_prob(z).isnan().nonzero().tolist() == [[0, 1]]


# --- SA-VAE ----------------------------------------------------------------------------------------------------


def one_sample_elbos(model, x, path, eps):
    """[steps + 1, batch] with the same noise for all."""
    elbos = []
    for mu, log_variance in path:
        z, log_q = DiagonalGaussian(mu, log_variance).rsample_with_log_prob(eps)
        elbos.append((model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) - log_q)[0])
    return torch.stack(elbos)


def refined(make_step, output, step_size):
    model, x, eps = make_model(SAVAE, output), make_images(output), numbers(1, IMAGES, LATENT)
    start = model.amortised(model.encoder(x))
    path = refine(model, x, start, given(eps), 6, make_step(step_size, 5.0))
    return path, one_sample_elbos(model, x, path, eps)


@pytest.mark.parametrize("output", OUTPUTS)
def test_small_steps_of_savae_raise_every_images_elbo(output):
    """Steps with common random numbers."""
    _, elbos = refined(ascent_step, output, 1e-3)
    assert elbos.diff(dim=0).min() > 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_small_step_of_the_released_savae_lowers_the_elbo(output):
    """A documented departure: it adds the gradient of the loss."""
    _, elbos = refined(original_step, output, 1e-3)
    assert elbos.diff(dim=0).max() < 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_step_of_savae_is_the_step_size_times_the_images_own_gradient(output):
    model, x, eps = make_model(SAVAE, output), make_images(output), numbers(1, IMAGES, LATENT)
    start = model.amortised(model.encoder(x))
    (_, after) = refine(model, x, start, given(eps), 1, ascent_step(0.01, 1e9))
    for image in range(IMAGES):
        mu, log_variance = (p[image : image + 1].detach().requires_grad_() for p in start)
        value = one_sample_elbos(model, x[image : image + 1], [(mu, log_variance)], eps[:, image : image + 1])
        gradients = torch.autograd.grad(value.sum(), (mu, log_variance))
        for before, new, gradient in zip((mu, log_variance), after, gradients, strict=True):
            torch.testing.assert_close(
                new[image : image + 1], before + 0.01 * gradient, rtol=1e-11, atol=1e-11
            )


def own_noise(images):
    return image_noise([generator("cpu", "image", i) for i in images], torch.float64)


def test_only_the_released_savae_depends_on_the_batch():
    x = make_images("gaussian")
    for kind, independent in [(SAVAE, True), (OriginalSAVAE, False)]:
        model = make_model(kind, "gaussian", step_size=0.1)
        together = model.posterior(x, own_noise(range(IMAGES)))
        alone = model.posterior(x[1:2], own_noise([1]))
        same = torch.allclose(alone.mu, together.mu[1:2], rtol=1e-10, atol=1e-10)
        assert same == independent


@torch.no_grad()
def test_the_released_savae_steps_by_the_batch_means_gradient():
    """The same gradient moves an image half as far in a batch of twice the size."""
    step, gradient = original_step(0.1, 5.0), 1e-3 * numbers(IMAGES, LATENT)
    twice = gradient.repeat(2, 1)
    moved = step(torch.zeros_like(gradient), gradient)
    torch.testing.assert_close(moved, -0.1 * gradient / IMAGES, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(step(torch.zeros_like(twice), twice)[:IMAGES], moved / 2, rtol=1e-12, atol=0.0)


@torch.no_grad()
def test_clipping_shortens_only_gradients_above_the_norm():
    step, directions = ascent_step(0.1, 5.0), torch.nn.functional.normalize(numbers(IMAGES, LATENT), dim=-1)
    for norm, expected in [(1e-9, 1e-9), (4.999, 4.999), (5.001, 5.0), (1e6, 5.0)]:
        moved = step(torch.zeros_like(directions), norm * directions)
        torch.testing.assert_close(moved, 0.1 * expected * directions, rtol=1e-11, atol=0.0)


@torch.no_grad()
def test_the_released_clipping_divides_by_the_squared_norm():
    """It begins at sqrt(5), and the longer the gradient, the shorter the step."""
    step, directions = original_step(0.1, 5.0), torch.nn.functional.normalize(numbers(IMAGES, LATENT), dim=-1)
    for norm, expected in [(2.2, 2.2), (5.0, 1.0), (10.0, 0.5), (100.0, 0.05)]:
        moved = step(torch.zeros_like(directions), IMAGES * norm * directions)
        torch.testing.assert_close(moved, -0.1 * expected * directions, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("make_step", [ascent_step, original_step])
def test_a_vanishing_gradient_has_a_finite_derivative_through_the_step(make_step):
    gradient = torch.zeros(IMAGES, LATENT).double().requires_grad_()
    make_step(0.1, 5.0)(torch.zeros_like(gradient), gradient).sum().backward()
    assert torch.isfinite(gradient.grad).all()
    assert torch.all(gradient.grad != 0)


class WeightedElbo(nn.Module):
    """A function of a model's parameters, for finite differences."""

    def __init__(self, model, x, eps):
        super().__init__()
        self.model, self.x, self.eps = model, x, eps

    def forward(self):
        return sample_terms(self.model, self.x, given(self.eps), 1).log_weights


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.5, 50.0], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("kind", [SAVAE, OriginalSAVAE])
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradients_of_unrolled_savae_match_finite_differences(output, kind, clip_norm):
    model = make_model(
        kind,
        output,
        latent_dim=2,
        hidden_dims=(3,),
        pixels=3,
        num_steps=2,
        step_size=0.2,
        clip_norm=clip_norm,
    )
    weighted = WeightedElbo(model, make_images(output, 2, 3), numbers(1, 2, 2))
    names, parameters = zip(*weighted.named_parameters(), strict=True)

    def value(*parameters):
        return torch.func.functional_call(weighted, dict(zip(names, parameters, strict=True)), ())

    assert torch.autograd.gradcheck(value, parameters)


@torch.no_grad()
def test_savae_without_steps_is_the_vae():
    savae, vae, x = (
        make_model(SAVAE, "gaussian", num_steps=0),
        make_model(VAE, "gaussian"),
        make_images("gaussian"),
    )
    vae.load_state_dict(savae.state_dict())
    ours, expected = (sample_terms(model, x, noise(), 3).log_weights for model in (savae, vae))
    assert torch.equal(ours, expected)


def test_each_step_of_savae_draws_one_new_sample_per_image():
    drawn = []

    def counted(samples, dim):
        drawn.append((samples, dim))
        return numbers(samples, IMAGES, dim, key=str(len(drawn)))

    make_model(SAVAE, "gaussian", num_steps=3).posterior(make_images("gaussian"), counted)
    assert drawn == [(1, LATENT)] * 3


# --- the contract: every file of conf/model with either output -------------------------------------------------

FILES = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
SIZES = {"latent_dim": LATENT, "hidden_dims": list(HIDDEN), "epochs": 1}


def keys_of(path):
    """The file's keys, with the dataset's sizes small."""
    root = OmegaConf.create({"dataset": {"sizes": SIZES}, "model": OmegaConf.load(path)})
    return OmegaConf.to_container(root, resolve=True)["model"]


def build_file(path, output):
    """The model that a file of conf/model describes."""
    keys = keys_of(path)
    keys.pop("name")
    module, _, name = keys.pop("_target_").rpartition(".")
    shared = {key: keys.pop(key) for key in ("latent_dim", "hidden_dims", "activation", "network")}
    backbone = Backbone(pixels=PIXELS, output=make_output(output), **shared)
    return getattr(importlib.import_module(module), name)(backbone, **keys)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def model_file(request):
    return request.param


@pytest.fixture(params=OUTPUTS)
def output(request):
    return request.param


@pytest.fixture
def configured(model_file, output):
    """(model in float64, x)"""
    model = build_file(model_file, output)
    initialise(model, "paper", generator("cpu", "configured", model_file.stem))
    return model.double(), make_images(output)


def test_there_are_model_files():
    expected = {
        "vae",
        "fullcov",
        "savae",
        "savae_original",
        "hf",
        "iaf",
        "iaf_original",
        "vlae",
        "vlae_newton",
    }
    assert expected <= {f.stem for f in FILES}


def test_a_model_file_is_named_as_its_model(model_file):
    assert keys_of(model_file)["name"] == model_file.stem


@pytest.mark.slow
def test_every_posterior_gives_samples_and_log_densities_with_their_axes(configured):
    model, x = configured
    q = model.posterior(x, noise())
    for samples in (1, 6):
        z, log_q = q.rsample_with_log_prob(numbers(samples, IMAGES, q.noise_dim))
        assert (z.shape, log_q.shape) == ((samples, IMAGES, LATENT), (samples, IMAGES))
        assert torch.isfinite(z).all()
        assert torch.isfinite(log_q).all()


@pytest.mark.slow
def test_log_density_is_that_of_the_noise_minus_log_determinant(configured):
    """log q(z) = log N(eps; 0, I) - log |det dz/deps|, the determinant by automatic differentiation."""
    model, x = configured
    eps = numbers(6, IMAGES, LATENT).requires_grad_()
    z, log_q = model.posterior(x, noise()).rsample_with_log_prob(eps)
    log_det = torch.linalg.slogdet(jacobians(z, eps))[1]
    torch.testing.assert_close(log_q, standard_normal_log_prob(eps) - log_det, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_log_prob_of_a_sample_is_its_log_q(configured):
    model, x = configured
    q = model.posterior(x, noise())
    assert isinstance(q, FamilyMember)
    z, log_q = q.rsample_with_log_prob(numbers(6, IMAGES, LATENT))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.detach().log_prob(z), log_q, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_every_posterior_with_its_own_parameters_is_itself(configured):
    model, x = configured
    q, eps = model.posterior(x, noise()), numbers(6, IMAGES, LATENT)
    again = q.with_parameters(*q.parameters())
    assert all(len(p) == IMAGES for p in q.parameters())
    torch.testing.assert_close(
        again.rsample_with_log_prob(eps), q.rsample_with_log_prob(eps), rtol=1e-11, atol=1e-11
    )


@pytest.mark.slow
def test_a_detached_posterior_passes_gradients_to_the_point_only(configured):
    model, x = configured
    q = model.posterior(x, noise())
    z = q.rsample_with_log_prob(numbers(6, IMAGES, LATENT))[0].detach() + 0.1 * numbers(
        6, IMAGES, LATENT, key="far"
    )
    assert not q.detach().log_prob(z).requires_grad
    slopes = [torch.autograd.grad(p.log_prob(z.requires_grad_()).sum(), z)[0] for p in (q.detach(), q)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_ascent_on_one_images_parameters_raises_only_its_elbo(configured):
    """The amortisation gap is measured with it."""
    model, x = configured
    q, eps = model.posterior(x, noise()).detach(), numbers(20, IMAGES, LATENT)
    member = [p.clone().requires_grad_() for p in q.parameters()]

    def elbos():
        z, log_q = q.with_parameters(*member).rsample_with_log_prob(eps)
        return (model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) - log_q).mean(0)

    before, optimizer = elbos().detach(), torch.optim.Adam(member, lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (-elbos()[1:].sum()).backward()
        optimizer.step()
    after = elbos().detach()
    assert torch.all(after[1:] > before[1:])
    torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@torch.no_grad()
def test_the_closed_form_divergence_is_the_mean_of_the_sampled_one(
    configured,
):
    model, x = configured
    q = model.posterior(x, noise())
    if not model.analytic_kl:
        with pytest.raises(TypeError, match="closed form"):
            q.kl_to_prior()
        return
    assert isinstance(q, ClosedFormKL)
    z, log_q = q.rsample_with_log_prob(sigma_points(IMAGES, LATENT))
    sampled = (log_q - standard_normal_log_prob(z)).mean(0)
    torch.testing.assert_close(q.kl_to_prior(), sampled, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_samples_do_not_depend_on_their_number(configured):
    model, x = configured
    q, eps = model.posterior(x, noise()), numbers(6, IMAGES, LATENT)
    z, log_q = q.rsample_with_log_prob(eps)
    for part in (slice(0, 1), slice(1, 6)):
        torch.testing.assert_close(
            q.rsample_with_log_prob(eps[part]), (z[part], log_q[part]), rtol=1e-12, atol=1e-12
        )


@pytest.mark.slow
def test_the_posterior_of_an_image_does_not_depend_on_its_batch(configured, model_file):
    if model_file.stem == "savae_original":
        return  # steps by the batch mean's gradient, as released
    model, x = configured
    eps = numbers(6, IMAGES, LATENT)
    together = model.posterior(x, own_noise(range(IMAGES))).rsample_with_log_prob(eps)
    for image in range(IMAGES):
        one = slice(image, image + 1)
        alone = model.posterior(x[one], own_noise([image])).rsample_with_log_prob(eps[:, one])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[:, one], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_every_parameter_receives_a_finite_gradient(configured):
    model, x = configured
    sample_terms(model, x, noise(), 2).log_weights.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.slow
def test_values_do_not_depend_on_gradient_tracking(configured):
    model, x = configured
    with_gradients = sample_terms(model, x, noise(), 3).log_weights
    with torch.no_grad():
        without = sample_terms(model, x, noise(), 3).log_weights
    assert with_gradients.requires_grad
    assert not without.requires_grad
    torch.testing.assert_close(without, with_gradients.detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.slow
@torch.no_grad()
def test_inference_without_gradients_leaves_none_behind(configured):
    """The semi-amortised models differentiate while they infer."""
    model, x = configured
    q = model.posterior(x, noise())
    z, log_q = q.rsample_with_log_prob(numbers(2, IMAGES, LATENT))
    assert not z.requires_grad
    assert not log_q.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
@torch.no_grad()
def test_float32_and_float64_agree_given_the_same_noise(configured):
    model, x = configured
    eps = numbers(3, IMAGES, LATENT)
    double = sample_terms(model, x, lambda samples, dim: eps[:samples], 3).log_weights
    single = sample_terms(model.float(), x.float(), lambda samples, dim: eps[:samples].float(), 3).log_weights
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [True, False])
def test_refinements_are_the_locations_before_and_after_each_update(configured, model_file, gradients):
    model, x = configured
    keys = keys_of(model_file)
    updates = keys.get("num_updates", keys.get("num_steps"))
    with torch.set_grad_enabled(gradients):
        path = model.refinements(x, noise())
        q = model.posterior(x, noise())
    assert len(path) == (0 if updates is None else updates + 1)
    if path:
        assert all(mu.shape == (IMAGES, LATENT) for mu in path)
        assert all((after - before).abs().max() > 0 for before, after in itertools.pairwise(path))
        torch.testing.assert_close(path[-1], q.mu, rtol=1e-13, atol=1e-13)
        with torch.set_grad_enabled(gradients):
            last = model.stages(x, noise())[-1]
        z = numbers(2, IMAGES, LATENT, key="z")
        torch.testing.assert_close(last.log_prob(z), q.log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_models_values_depend_only_on_its_state(configured, model_file, output):
    """A checkpoint restores it: masks and the like are not drawn again."""
    model, x = configured
    torch.manual_seed(77)
    other = build_file(model_file, output).double()
    other.load_state_dict(model.state_dict())
    ours, theirs = (sample_terms(m, x, noise(), 3).log_weights for m in (model, other))
    assert torch.equal(ours, theirs)
