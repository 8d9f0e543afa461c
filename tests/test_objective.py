"""Log-weights, the ELBO and the importance-weighted bound."""

import pytest
import torch
from conftest import (
    HIDDEN,
    IMAGES,
    LATENT,
    OUTPUTS,
    assert_same_gradients,
    given,
    make_images,
    make_model,
    noise,
    numbers,
    scalar_gradients,
    sigma_points,
)
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from vlae.distributions.flows import FlowedGaussian
from vlae.distributions.posteriors import standard_normal_log_prob
from vlae.models.fullcov import FullCovariance
from vlae.models.hf import HF
from vlae.models.iaf import IAF, Gates
from vlae.models.savae import SAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.models.vlae_newton import VLAENewton
from vlae.training.objective import (
    analytic_elbo,
    doubly_reparameterised_bound,
    elbo,
    importance_weighted_bound,
    sample_terms,
    sampled_elbo,
    select_objective,
)

KINDS = [VAE, FullCovariance, SAVAE, HF, IAF, VLAE, VLAENewton]


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
    """The mean for a diagonal Gaussian, whose sigma points give it exactly."""
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


def test_the_bound_of_equal_weights_is_their_log_weight():
    log_w = numbers(1, IMAGES)
    assert torch.equal(importance_weighted_bound(log_w), log_w[0])
    torch.testing.assert_close(
        importance_weighted_bound(log_w.expand(50, -1)), log_w[0], rtol=1e-14, atol=1e-14
    )


def test_bound_moves_with_its_log_weights_without_overflow():
    log_w, shift = numbers(9, IMAGES), torch.tensor([-5000.0, -800.0, 800.0, 5000.0]).double()
    moved = importance_weighted_bound(log_w + shift)
    torch.testing.assert_close(moved, importance_weighted_bound(log_w) + shift, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_bound_rises_with_the_number_of_samples(kind, output):
    """Groups of 1, 10 and 1000 of the same samples: then it holds for every draw, not only on average."""
    model, x = make(kind, output)
    log_w = sample_terms(model, x, noise(), 1000).log_weights
    bounds = [
        torch.stack([importance_weighted_bound(group) for group in log_w.split(size)]).mean(0)
        for size in (1, 10, 1000)
    ]
    torch.testing.assert_close(bounds[0], elbo(log_w), rtol=1e-12, atol=1e-12)
    assert torch.all(bounds[0] < bounds[1])
    assert torch.all(bounds[1] < bounds[2])


# --- what training follows -------------------------------------------------------------------------------------


def gradient_of(estimator, model, x, noise, samples):
    loss, _ = estimator(model, x, noise, samples)
    return scalar_gradients(-loss, model)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sampled_elbo_is_the_mean_log_weight(kind):
    model, x = make(kind, "gaussian")
    loss, figures = sampled_elbo(model, x, noise(), 5)
    terms = sample_terms(model, x, noise(), 5)
    expected = torch.stack([elbo(terms.log_weights).mean(), terms.log_likelihood.mean(), terms.kl.mean()])
    torch.testing.assert_close(figures, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-loss, expected[0], rtol=1e-12, atol=1e-12)
    assert not figures.requires_grad


@pytest.mark.parametrize("kind", [VAE, FullCovariance, HF, VLAE, VLAENewton])
def test_closed_form_elbo_and_gradients_are_means_of_sampled_ones(kind):
    """The sigma points give the mean of the log-density ratio exactly."""
    model, x = make(kind, "gaussian")
    eps, samples = given(sigma_points(IMAGES, LATENT)), 2 * LATENT
    figures = [estimator(model, x, eps, samples)[1] for estimator in (sampled_elbo, analytic_elbo)]
    torch.testing.assert_close(*figures, rtol=1e-10, atol=1e-10)
    gradients = [
        gradient_of(estimator, model, x, eps, samples) for estimator in (analytic_elbo, sampled_elbo)
    ]
    assert_same_gradients(*gradients, tolerance=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_iwae_objective_reports_the_bound_and_the_elbo_of_its_samples(kind):
    model, x = make(kind, "gaussian")
    _, figures = doubly_reparameterised_bound(model, x, noise(), 5)
    terms = sample_terms(model, x, noise(), 5)
    log_w = terms.log_weights.detach()
    assert select_objective("iwae", "sampled").metrics == (
        "elbo_nats",
        "reconstruction_nats",
        "kl_nats",
        "iwae_bound_nats",
    )
    assert len(figures) == 4
    torch.testing.assert_close(figures[0], log_w.mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(figures[3], importance_weighted_bound(log_w).mean(), rtol=1e-9, atol=1e-9)


def score(q, eps):
    """d log q(u) / du at the samples of this noise, parameters constant: J' score = d log q(u(eps)) / deps."""
    eps = eps.clone().requires_grad_()
    u, log_q = q.rsample_with_log_prob(eps)
    (slope,) = torch.autograd.grad(log_q.sum(), eps, retain_graph=True)
    rows = [torch.autograd.grad(column.sum(), eps, retain_graph=True)[0] for column in u.unbind(-1)]
    return torch.linalg.solve(torch.stack(rows, -2).mT, slope)


def base_and_flow(q):
    """The flow of an IAF counts as part of the model, the reflections of an HF as part of the posterior."""
    gated = isinstance(q, FlowedGaussian) and isinstance(q.flow, Gates)
    return (q.base, q.flow) if gated else (q, lambda u: (u, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_dreg_of_one_sample_is_the_path_derivative_of_the_elbo(kind, output):
    """ "Sticking the landing" (Roeder et al. 2017), the score of q by dense Jacobians."""
    model, x = make(kind, output)
    eps = numbers(1, IMAGES, LATENT)
    ours = gradient_of(doubly_reparameterised_bound, model, x, given(eps), 1)
    q, flow = base_and_flow(model.posterior(x, given(eps)))
    u, _ = q.rsample_with_log_prob(eps)
    z, log_det = flow(u)
    log_joint = model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) + log_det
    path = (log_joint - (score(q, eps) * u).sum(-1)).mean()
    assert_same_gradients(ours, scalar_gradients(path, model), tolerance=1e-7)


def test_dreg_of_a_diagonal_gaussian_is_the_formula_of_the_paper():
    """Weights to the first power for the decoder, squared for the encoder, both sums written out."""
    model, x = make(VAE, "bernoulli")
    K, eps = 4, numbers(4, IMAGES, LATENT)
    ours = gradient_of(doubly_reparameterised_bound, model, x, given(eps), K)
    mu, log_variance = model.amortised(model.encoder(x))
    z = mu + (log_variance / 2).exp() * eps
    leaf = z.detach().requires_grad_()
    log_q = Normal(mu.detach(), (log_variance / 2).exp().detach()).log_prob(leaf).sum(-1)
    log_p = Bernoulli(logits=model.decoder(leaf)).log_prob(x).sum(-1)
    log_w = log_p + Normal(torch.zeros(()).double(), 1.0).log_prob(leaf).sum(-1) - log_q
    w = (log_w.exp() / log_w.exp().sum(0)).detach()
    (score,) = torch.autograd.grad(log_w.sum(), leaf, retain_graph=True)
    of_encoder = (w.square().unsqueeze(-1) * score * z).sum() / IMAGES
    of_decoder = (w * log_w).sum() / IMAGES
    expected = {
        **scalar_gradients(
            of_encoder, nn.ModuleDict({"encoder": model.encoder, "amortised": model.amortised})
        ),
        **scalar_gradients(of_decoder, nn.ModuleDict({"decoder": model.decoder})),
    }
    assert_same_gradients(ours, expected)


def ordinary_bound(model, x, noise, samples):
    """The bound with the ordinary reparameterised gradient."""
    bound = importance_weighted_bound(sample_terms(model, x, noise, samples).log_weights).mean()
    return -bound, bound.detach().unsqueeze(0)


BLOCKS, DRAWS = 40, 1500


def tiny(kind):
    """Two latent dimensions; one image, DRAWS times, so that one call has the mean of as many draws."""
    keys = {"flow_hidden_dims": (4,)} if kind is IAF else {}
    model = make_model(kind, "bernoulli", latent_dim=2, hidden_dims=(4,), pixels=3, **keys)
    torch.nn.init.ones_(model.encoder.linears[0].bias)  # no unit is off
    if kind is IAF:
        with (
            torch.no_grad()
        ):  # a gentle flow: steep ones have path derivatives of heavy tails (docs/decisions/0007)
            [parameter.mul_(0.5) for parameter in model.flows.parameters()]
    return model, torch.tensor([[1.0, 0.0, 1.0]]).double().expand(DRAWS, -1)


def trained(model, x):
    """A model whose q is near p(z | x): the path derivative vanishes with their difference."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        optimizer.zero_grad()
        sampled_elbo(model, x[:100], noise(100, key=f"training {step}"), 1)[0].backward()
        optimizer.step()
    return model


def block_gradients(estimator, model, x, samples):
    """The gradients of BLOCKS independent means, by parameter: [blocks, numbers]."""
    rows = [
        gradient_of(estimator, model, x, noise(len(x), key=str(block)), samples) for block in range(BLOCKS)
    ]
    return {name: torch.stack([row[name].flatten() for row in rows]) for name in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VAE, SAVAE, HF, IAF, VLAE])
def test_dreg_has_the_expectation_of_the_bounds_ordinary_gradient(kind):
    """They agree within a few standard errors of many draws, also where inference uses the decoder."""
    model, x = tiny(kind)
    dreg, ordinary = (block_gradients(e, model, x, 3) for e in (doubly_reparameterised_bound, ordinary_bound))
    assert dreg.keys() == ordinary.keys() == dict(model.named_parameters()).keys()
    for name in dreg:
        difference = dreg[name] - ordinary[name]
        error = difference.std(0) / BLOCKS**0.5
        assert torch.all(difference.mean(0).abs() <= 5 * error + 1e-12), name
        size = ordinary[name].mean(0).norm()
        assert error.norm() < 0.25 * size, f"{name}: too few draws to tell, {error.norm():.1e} of {size:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VAE, FullCovariance, HF, IAF])
def test_dreg_has_less_variance_for_a_trained_encoder(kind):
    model, x = tiny(kind)
    model, x = trained(model, x), x[:300]
    dreg, ordinary = (
        block_gradients(e, model, x, 20) for e in (doubly_reparameterised_bound, ordinary_bound)
    )
    for name in dreg:
        if name.startswith(("decoder", "flows")):  # theta
            torch.testing.assert_close(dreg[name], ordinary[name], rtol=1e-9, atol=1e-12)
    variances = [
        sum(
            rows.var(0).sum() for name, rows in gradients.items() if not name.startswith(("decoder", "flows"))
        )
        for gradients in (dreg, ordinary)
    ]
    assert variances[0] < 0.2 * variances[1]


class Bare(VAE):
    """A user's model whose posteriors have only the methods that plain training needs."""

    def posterior(self, x, noise):
        return BarePosterior(super().posterior(x, noise))


class BarePosterior:
    def __init__(self, q):
        self.noise_dim, self.rsample_with_log_prob = q.noise_dim, q.rsample_with_log_prob


def test_a_minimal_posterior_trains_by_the_sampled_elbo_only():
    model, x = make(Bare, "gaussian")
    sampled_elbo(model, x, noise(), 2)[0].backward()
    with pytest.raises(TypeError, match=r"trainer\.objective=iwae needs .* BarePosterior has no log_prob, "):
        doubly_reparameterised_bound(model, x, noise(), 2)
    with pytest.raises(TypeError, match=r"trainer\.kl=analytic needs .* BarePosterior has no kl_to_prior"):
        analytic_elbo(model, x, noise(), 2)
