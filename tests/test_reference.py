"""The plain reference of the benchmarks computes the platform's numbers; the benchmarks count what they say."""

import math

import pytest
import torch

from benchmarks import reference
from benchmarks.timing import flops, peak_bytes
from vlae.distributions.outputs import BernoulliOutput, GaussianOutput
from vlae.estimation.estimators.importance import evaluate
from vlae.models.backbone import Backbone
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.nn.networks import initialise
from vlae.seeding import batch_noise, generator, image_noise
from vlae.training.objective import sample_terms

PIXELS, LATENT, HIDDEN, IMAGES = 11, 4, (9, 7), 5
"""Every size is different, and more pixels than hidden units: the short cuts for wide images are taken."""

CASES = [
    pytest.param(model, output, id=f"{model.__name__}-{output.support}")
    for model in (VLAE, VAE, HF, IAF)
    for output in (GaussianOutput, BernoulliOutput)
]


def make(kind, output_kind, **keys):
    """A small model in float64 with O(1) weights, and images its output distribution can have made."""
    source = generator("cpu", "reference", kind.__name__)
    output = output_kind()
    output.initialise(0.3)
    if kind is IAF:
        keys["flow_hidden_dims"] = (8,)
    model = kind(Backbone(latent_dim=LATENT, hidden_dims=HIDDEN, pixels=PIXELS, output=output), **keys)
    initialise(model, "paper", source)
    x = torch.randn(IMAGES, PIXELS, generator=source, dtype=torch.float64)
    return model.double(), (x > 0).double() if output.support == "binary" else x


def noise(step=0):
    return batch_noise(IMAGES, generator("cpu", "noise", step), torch.float64)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_elbo_of_every_image_is_the_references(kind, output):
    model, x = make(kind, output)
    ours = sample_terms(model, x, noise(), 1).log_weights[0]
    torch.testing.assert_close(ours, reference.elbo(model, x, noise()), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "output"), CASES)
def test_gradient_of_every_parameter_is_the_references(kind, output):
    """Gradients of a random combination of the images' ELBOs, so that errors of two images cannot cancel."""
    model, x = make(kind, output)
    weights = torch.randn(IMAGES, generator=generator("cpu", "weights"), dtype=torch.float64)
    parameters = dict(model.named_parameters())
    ours = sample_terms(model, x, noise(), 1).log_weights[0] @ weights
    theirs = reference.elbo(model, x, noise()) @ weights
    ours = torch.autograd.grad(ours, list(parameters.values()))
    theirs = torch.autograd.grad(theirs, list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        scale = b.abs().max().item()
        assert scale > 0, f"{name} takes no part: nothing would be compared"
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * scale, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "output"), CASES)
def test_log_likelihood_of_every_image_is_the_references(kind, output):
    model, x = make(kind, output)
    ours = evaluate(model, x, num_samples=37, memory_budget=16, seed=3).log_likelihood
    for i in range(IMAGES):
        own = image_noise([generator("cpu", 3, "evaluate", i)], torch.float64)
        with torch.no_grad():
            expected = reference.log_likelihood(model, x[i : i + 1], own, samples=37)
        torch.testing.assert_close(ours[i], expected, rtol=1e-10, atol=1e-10)


def test_reference_jacobian_is_that_of_automatic_differentiation():
    model, _ = make(VLAE, GaussianOutput)
    z = torch.randn(IMAGES, LATENT, generator=generator("cpu", "z"), dtype=torch.float64)
    f, J = reference.linearise(model, z)
    torch.testing.assert_close(f, model.decoder(z), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(J, torch.vmap(torch.func.jacrev(model.decoder))(z), rtol=1e-12, atol=1e-12)


def test_platforms_factored_jacobian_is_the_references():
    model, _ = make(VLAE, GaussianOutput)
    z = torch.randn(IMAGES, LATENT, generator=generator("cpu", "z"), dtype=torch.float64)
    ours = (model.decoder.linearise(z).jacobian() @ model.decoder.last.weight.T).mT
    torch.testing.assert_close(ours, reference.linearise(model, z)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", [GaussianOutput, BernoulliOutput])
@pytest.mark.parametrize("num_updates", [0, 1, 3])
def test_vlae_posterior_has_the_references_moments(output, num_updates):
    model, x = make(VLAE, output, num_updates=num_updates, damping=0.8)
    q = model.posterior(x, noise())
    mu, precision = reference.vlae_moments(model, x)
    torch.testing.assert_close(q.mu, mu, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.cholesky @ q.cholesky.mT, precision, rtol=1e-11, atol=1e-11)


def test_the_reference_gaussian_is_torchs_multivariate_normal():
    source = generator("cpu", "dense")
    mu = torch.randn(IMAGES, LATENT, generator=source, dtype=torch.float64)
    root = torch.randn(IMAGES, LATENT, LATENT, generator=source, dtype=torch.float64)
    precision = root @ root.mT + torch.eye(LATENT, dtype=torch.float64)
    q = reference.DenseGaussian(mu, precision)
    exact = torch.distributions.MultivariateNormal(mu, precision_matrix=precision)
    z = torch.randn(IMAGES, LATENT, generator=source, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), exact.log_prob(z), rtol=1e-11, atol=1e-11)
    columns = torch.stack([q.sample(e.expand(IMAGES, -1)) - mu for e in torch.eye(LATENT).double()], -1)
    torch.testing.assert_close(columns @ columns.mT, exact.covariance_matrix, rtol=1e-10, atol=1e-12)


def test_the_reference_loader_returns_each_image_once():
    images = torch.arange(6 * 2 * 3, dtype=torch.uint8).view(6, 2, 3) * 7
    batches = list(reference.loader(images, batch_size=4, device=torch.device("cpu")))
    assert [len(b) for b in batches] == [4, 2]
    seen = torch.cat(batches).flatten(1).mul(255).round().to(torch.uint8)
    assert sorted(seen.tolist()) == images.flatten(1).tolist()
    assert math.isclose(torch.cat(batches).max().item(), images.max().item() / 255, rel_tol=1e-6)


@pytest.mark.slow
def test_peak_memory_counts_what_is_held_at_once():
    kept = torch.zeros(1000)

    def run():
        for _ in range(3):
            both = torch.zeros(5000), torch.zeros(2000)
            del both
        return kept + 1

    assert 28_000 <= peak_bytes(run, torch.device("cpu")) < 28_000 + 3 * 64 + 4000


def test_a_multiply_add_counts_as_two_operations():
    a, spd, b = torch.ones(3, 4), torch.eye(6).expand(2, 6, 6), torch.ones(2, 6, 5)

    def run():
        torch.linalg.solve_triangular(spd, b, upper=True)
        torch.cholesky_solve(b, torch.linalg.cholesky(spd))
        torch.inverse(spd)
        return (a @ a.T).relu()

    product, triangular, cholesky, inverse = 2 * 3 * 4 * 3, 2 * 6 * 6 * 5, 2 * 6**3 // 3, 2 * 2 * 6**3
    assert flops(run)[1] == product + 3 * triangular + cholesky + inverse
