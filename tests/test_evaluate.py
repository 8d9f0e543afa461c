"""The importance-sampled log-likelihood against quadrature and closed forms, in any chunks, interrupted or not."""

import itertools
import math

import pytest
import torch
from conftest import (
    HIDDEN,
    IMAGES,
    OUTPUTS,
    PIXELS,
    linear,
    make_images,
    make_model,
    numbers,
)
from torch import nn
from torch.distributions import MultivariateNormal

from vlae.config.schema import PROPOSALS
from vlae.distributions.posteriors import PrecisionGaussian, standard_normal_log_prob
from vlae.estimation.estimators.importance import CACHED_ROWS, MAX_GROUP, Chunks, Evaluation, evaluate
from vlae.estimation.log_weights import NOISE_BLOCK, LogWeights, samples_for_target
from vlae.estimation.pareto import unreliable_above
from vlae.estimation.part_settings import PILOT
from vlae.estimation.proposals import of_decoder, propose
from vlae.models.fullcov import FullCovariance
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE, OriginalSAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.models.vlae_newton import VLAENewton
from vlae.seeding import batch_noise, generator, image_noise
from vlae.training.objective import elbo, importance_weighted_bound, posterior_terms, sample_terms

MODELS = [VAE, FullCovariance, SAVAE, HF, IAF, VLAE, VLAENewton]
FIELDS = ("elbo", "log_likelihood", "ess", "k_hat", "samples")


def make(kind, output, **keys):
    if kind is IAF:
        keys["flow_hidden_dims"] = HIDDEN
    return make_model(kind, output, **keys)


def scored(model, x, *, num_samples=40, memory_budget=16, seed=5, **keys):
    return evaluate(model, x, num_samples=num_samples, memory_budget=memory_budget, seed=seed, **keys)


def assert_same(ours, expected, images=slice(None)):
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(ours, field)[images], getattr(expected, field)[images], rtol=1e-9, atol=1e-9
        )


def in_chunks_of(images, samples, monkeypatch):
    monkeypatch.setattr(Chunks, "within", classmethod(lambda cls, *arguments: cls(images, samples)))


# --- the figure ------------------------------------------------------------------------------------------------

QUADRATURE = [
    pytest.param(kind, latent_dim, output, id=f"{kind.__name__}-{latent_dim}-{output}")
    for kind in MODELS
    for latent_dim in (1, 2)
    for output in OUTPUTS
    if latent_dim == 2 or kind in (VAE, SAVAE, VLAE, VLAENewton)
]


def broad(kind, latent_dim, output):
    """A model whose posteriors miss the true ones, but are broader: weights are bounded, standard errors are sound."""
    model = make(kind, output, latent_dim=latent_dim, pixels=4)
    with torch.no_grad():
        model.decoder.last.weight.mul_(0.5)
        if output == "gaussian":
            model.output.log_variance.fill_(0.0)
        if kind not in (VLAE, VLAENewton):
            for name in ("amortised", "flows", "below"):
                for parameter in getattr(model, name, nn.Module()).parameters():
                    parameter.mul_(0.3)
            model.amortised.mu.bias.add_(0.7)
            model.amortised.log_variance.bias.add_(1.5 if kind is IAF else 0.5)  # its gates narrow it again
    return model, make_images(output, images=3, pixels=4)


@torch.no_grad()
def log_evidence(model, x):
    """log p(x) by the trapezoidal rule on a grid over z."""
    side = torch.linspace(-8, 8, 4001 if model.latent_dim == 1 else 401).double()
    z = torch.cartesian_prod(*[side] * model.latent_dim).view(-1, model.latent_dim)
    f, log_prior = model.decoder(z), standard_normal_log_prob(z)
    log_joint = torch.stack([model.output.log_prob(image[None], f[:, None])[:, 0] + log_prior for image in x])
    return torch.logsumexp(log_joint, 1) + model.latent_dim * torch.log(side[1] - side[0])


@pytest.mark.slow
@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize(("kind", "latent_dim", "output"), QUADRATURE)
def test_log_likelihood_agrees_with_quadrature(kind, latent_dim, output, proposal):
    """Var log mean w = (S / ESS - 1) / S to first order, w the weights: the error that the ESS promises.

    k-hat must call it reliable: a Gaussian at one mode (VLAENewton's own, too) may miss another one, beyond a kink.
    """
    model, x = broad(kind, latent_dim, output)
    exact = log_evidence(model, x)
    scores = scored(model, x, num_samples=4000, proposal=proposal)
    believed = scores.k_hat <= unreliable_above(4000)
    is_broad = proposal == "own" and kind is not VLAENewton
    assert believed.all() if is_broad else believed.any()
    assert scores.monte_carlo_error[believed].max() < 0.1
    error = (scores.log_likelihood - exact)[believed]
    assert torch.all(error.abs() < 4.5 * scores.monte_carlo_error[believed] + 1e-4)
    assert torch.all(scores.elbo < exact + 0.01)  # itself an average over samples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "latent_dim", "output"), [case for case in QUADRATURE if case.values[0] in (VAE, VLAE)]
)
def test_estimates_rise_to_the_log_likelihood(kind, latent_dim, output):
    """The expectation is over 300 independent replicates of the images, each an image of its own for evaluate()."""
    model, x = broad(kind, latent_dim, output)
    exact, gaps, errors = log_evidence(model, x).sum(), [], []
    for samples in (1, 4, 32):
        scores = scored(model, x.repeat(300, 1), num_samples=samples).log_likelihood.view(300, len(x)).sum(1)
        gaps.append(exact - scores.mean())
        errors.append(scores.std() / 300**0.5)
    assert gaps[0] - gaps[2] > 3 * (errors[0] ** 2 + errors[2] ** 2).sqrt()
    for before, after in itertools.pairwise(range(3)):
        assert gaps[before] - gaps[after] > -3 * (errors[before] ** 2 + errors[after] ** 2).sqrt()
    assert all(gap > -4 * error - 1e-4 for gap, error in zip(gaps, errors, strict=True))
    assert gaps[2] < 0.4 * gaps[0]


@pytest.mark.parametrize("proposal", ["own", "laplace", "mixture"])
def test_an_exact_posterior_has_the_closed_form_log_likelihood(
    proposal,
):
    """The mixture is exact because both of its halves are."""
    model, x = make(VLAE, "gaussian", hidden_dims=(8, 6), num_updates=1, damping=1.0), make_images("gaussian")
    with torch.no_grad():
        W, b = linear(model.decoder)
        exact = MultivariateNormal(b, W @ W.T + model.output.log_variance.exp() * torch.eye(PIXELS).double())
        exact = exact.log_prob(x)
    scores = scored(model, x, num_samples=30, proposal=proposal)
    torch.testing.assert_close(scores.elbo, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(scores.log_likelihood, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(scores.ess, torch.full((IMAGES,), 30.0).double(), rtol=1e-9, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_metrics_are_the_training_objective_with_noise_per_image(kind, output):
    """The fast scorers and the streaming sums change nothing."""
    model, x = make(kind, output), make_images(output)
    noise = image_noise([generator("cpu", 5, "evaluate", i) for i in range(IMAGES)], torch.float64)
    log_w = sample_terms(model, x, noise, 40).log_weights
    scores = scored(model, x)
    torch.testing.assert_close(scores.elbo, elbo(log_w), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        scores.log_likelihood, importance_weighted_bound(log_w), rtol=1e-10, atol=1e-10
    )
    w = torch.exp(log_w - log_w.max(0).values)
    torch.testing.assert_close(scores.ess, w.sum(0).square() / w.square().sum(0), rtol=1e-10, atol=0.0)


def test_another_seed_gives_another_estimate():
    model, x = make(VAE, "gaussian"), make_images("gaussian")
    first, again, other = (scored(model, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.log_likelihood, again.log_likelihood)
    assert torch.all(first.log_likelihood != other.log_likelihood)


def test_evaluation_in_float32_agrees_with_float64():
    """Torch draws other numbers in another dtype, so not to rounding."""
    model, x = broad(VAE, 2, "gaussian")
    double = scored(model, x, num_samples=4000)
    single = scored(model.float(), x.float(), num_samples=4000)
    assert single.log_likelihood.dtype == torch.float64
    standard_error = (1 / double.ess + 1 / single.ess - 2 / 4000).sqrt()
    assert torch.all((single.log_likelihood - double.log_likelihood).abs() < 4.5 * standard_error)


# --- to a target -----------------------------------------------------------------------------------------------


class Known(VAE):
    """A linear decoder, and a q whose weights follow a law in closed form.

    q = N(m + L^-T d, c P^-1) beside p(z | x) = N(m, P^-1), P = L L'. With c = 1, log w is normal with standard
    deviation |d|; with d = 0 and two latent dimensions, w is Pareto with k = 1 - c.
    """

    def posterior(self, x, noise):
        W, b = self.W, self.b
        precision = self.output.log_variance.neg().exp()
        L = torch.linalg.cholesky(torch.eye(2).double() + precision * W.T @ W)
        mu = torch.cholesky_solve(precision * W.T @ (x - b).T, L).T + torch.linalg.solve(L.T, self.shift)
        return PrecisionGaussian(mu, cholesky=(L / self.narrow**0.5).expand(len(x), 2, 2))


@torch.no_grad()
def known(images, sd=0.0, k=0.0):
    """The model, one image many times, each with noise of its own, and its log p(x)."""
    model, x = make(Known, "gaussian", latent_dim=2, hidden_dims=(4, 4), pixels=4), numbers(1, 4)
    model.W, model.b = linear(model.decoder)
    model.shift, model.narrow = torch.tensor([sd, 0.0]).double(), 1 - k
    variance = model.output.log_variance.exp()
    exact = MultivariateNormal(model.b, model.W @ model.W.T + variance * torch.eye(4).double()).log_prob(x)
    return model, x.repeat(images, 1), exact


def optional_stopping(log_w, target):
    """log mean w of the first samples that look precise enough: the biased rule that a pilot replaces."""
    found, weights = torch.zeros(log_w.shape[1]).double(), LogWeights(log_w.shape[1], len(log_w))
    active = torch.arange(log_w.shape[1])
    for part in log_w.split([100, 100, 200, 400, 800, 1000, 1000, 1000, 400]):
        weights.add(part[:, active], active)
        limit = unreliable_above(int(weights.count.max()))
        found[active] = weights.log_mean[active]
        active = active[~((weights.standard_error <= target) & (weights.k_hat <= limit))[active]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "target"), [({"sd": 1.0}, 0.1), ({"sd": 2.0}, 0.1), ({"k": 0.5}, 0.05), ({"k": 0.7}, 0.1)]
)
@torch.no_grad()
def test_a_pilot_biases_log_p_less_than_optional_stopping(law, target):
    model, x, exact = known(1000, **law)
    scores = scored(model, x, num_samples=5000, target_standard_error=target)
    assert scores.samples.mean() < 4000, "the target saves nothing"
    normal = numbers(5000, 1000, key="stopping")
    if "sd" in law:
        log_w = law["sd"] * normal - law["sd"] ** 2 / 2
    else:
        k, exponential = law["k"], (normal.square() + numbers(5000, 1000, key="pair").square()) / 2
        log_w = k * exponential + math.log(1 - k)
    ours, theirs = (scores.log_likelihood - exact).mean(), optional_stopping(log_w, target).mean()
    assert theirs < -0.015
    assert ours.abs() < 0.5 * theirs.abs()


@pytest.mark.slow
@torch.no_grad()
def test_the_mean_weight_is_unbiased_with_a_target():
    """E mean w = p(x), over images that differ in their noise alone."""
    images = 1500
    model, x, exact = known(images, sd=1.5)
    scores = scored(model, x, num_samples=5000, target_standard_error=0.15)
    assert len(scores.samples.unique()) > 3
    ratio = (scores.log_likelihood - exact).exp()
    assert abs(ratio.mean() - 1) < 3.5 * ratio.std() / images**0.5


@torch.no_grad()
def test_fresh_samples_alone_are_averaged():
    """The first ones of an evaluation without a target, as many as a pilot of other noise says."""
    model, x = broad(VAE, 2, "gaussian")
    x = torch.cat([x, 8 * x])
    scores = scored(model, x, num_samples=2500, target_standard_error=0.03)
    assert len(scores.samples.unique()) > 1, "the images should differ"

    def log_weights(key, sizes):
        noise = image_noise([generator("cpu", 5, *key, i) for i in range(len(x))], torch.float64)
        q = model.posterior(x, noise)
        return torch.cat([posterior_terms(model, x, q, noise(n, 2)).log_weights for n in sizes])

    pilot = LogWeights(len(x), PILOT)
    pilot.add(log_weights(("pilot", "own"), [PILOT]), torch.arange(len(x)))
    fresh = log_weights(("evaluate",), [1000, 1000, 500])
    assert scores.samples.tolist() == samples_for_target(pilot, 0.03, 2500).tolist()
    for i, samples in enumerate(scores.samples.int().tolist()):
        expected = importance_weighted_bound(fresh[:samples, i : i + 1])
        torch.testing.assert_close(scores.log_likelihood[i : i + 1], expected, rtol=1e-10, atol=1e-10)


def test_few_samples_need_no_pilot():
    model, x = make(VAE, "gaussian"), make_images("gaussian")
    few = {"num_samples": PILOT}
    assert_same(scored(model, x, target_standard_error=10.0, **few), scored(model, x, **few))


@pytest.mark.slow
@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("kind", [VAE, VLAE])
def test_a_target_error_is_met_where_the_weights_are_light(kind, proposal):
    model, x = broad(kind, 2, "gaussian")
    x = torch.cat([x, 8 * x])
    scores = scored(model, x, num_samples=6000, proposal=proposal, target_standard_error=0.03)
    assert scores.samples.min() < 6000, "no image takes fewer"
    light = (scores.samples < 6000) & (scores.k_hat < 0.5)
    assert light.any()
    assert torch.all(scores.monte_carlo_error[light] < 1.3 * 0.03)  # the pilot's ESS has an error itself


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_target_metrics_do_not_depend_on_chunks_or_other_images(kind, monkeypatch):
    model, x = broad(kind, 2, "bernoulli")
    settings = {"num_samples": 3000, "target_standard_error": 0.02, "proposal": "mixture"}
    expected = scored(model, x, **settings)
    in_chunks_of(1, 77, monkeypatch)
    assert_same(scored(model, x, **settings), expected)
    others = 1 - x
    others[1] = x[1]
    assert_same(scored(model, others, **settings), expected, slice(1, 2))
    resumed = Evaluation.empty(len(x)).with_first_of(expected)
    resumed.done = 1
    assert_same(scored(model, x, result=resumed, **settings), expected)


# --- chunks, restarts, other images ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_chunks_never_change_a_result(kind, monkeypatch):
    model, x = make(kind, "gaussian"), make_images("gaussian")
    expected = scored(model, x)
    for images, samples in [(1, 1), (1, 40), (3, 7), (4, 39), (128, 100)]:
        in_chunks_of(images, samples, monkeypatch)
        assert_same(scored(model, x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VLAE, SAVAE, OriginalSAVAE])
def test_memory_budget_never_changes_a_result(kind):
    """This holds even if the images of a batch are inferred together, as by the released SA-VAE."""
    model, x = make(kind, "bernoulli", pixels=30), make_images("bernoulli", images=6, pixels=30)
    assert Chunks.within(1, model, 20_000, x) != Chunks.within(512, model, 20_000, x)
    tight, loose = (scored(model, x, num_samples=20_000, memory_budget=budget) for budget in (1, 512))
    assert_same(tight, loose)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 16, 100, 10_000])
@pytest.mark.parametrize("samples", [1, 50, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("proposal", [name for name in PROPOSALS if not of_decoder(name)])
def test_chunks_keep_within_the_memory_budget_and_are_never_empty(proposal, budget, samples, dtype):
    """Bytes of a group's noise and of a chunk's widest activations."""
    model, x = make(VAE, "gaussian", pixels=900), torch.zeros(2, 900, dtype=dtype)
    chunks = Chunks.within(budget, model, samples, x)
    assert 1 <= chunks.images <= MAX_GROUP
    assert 1 <= chunks.samples <= samples
    available = budget * 2**20
    q, _ = propose(proposal, model.to(dtype), x, batch_noise(2, generator("cpu", 0), dtype))
    noise = chunks.images * min(samples, NOISE_BLOCK) * q.noise_dim * x.element_size()
    activations = chunks.images * chunks.samples * 900 * x.element_size()
    assert noise <= available / 2 or chunks.images == 1
    assert noise + activations <= available or chunks.images == 1 or chunks.samples == 1
    assert chunks.images * chunks.samples <= max(CACHED_ROWS, chunks.images)


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("kind", [SAVAE, VLAE])
def test_a_stopped_evaluation_resumes_with_the_same_metrics(kind, done, monkeypatch):
    model, x = make(kind, "gaussian"), make_images("gaussian")
    expected = scored(model, x)
    in_chunks_of(1, 11, monkeypatch)
    partial = Evaluation.empty(IMAGES)

    def stop(images):
        if images == done:
            raise Stopped

    with pytest.raises(Stopped):
        scored(model, x, result=partial, report=stop)
    assert partial.done == done
    assert_same(partial, expected, slice(0, done))
    assert torch.isnan(partial.log_likelihood[done:]).all()
    in_chunks_of(2, 40, monkeypatch)  # a restart may have another budget
    finished = scored(model, x, result=partial)
    assert finished.done == IMAGES
    assert_same(finished, expected)


def test_only_missing_images_are_evaluated():
    model, x = make(VAE, "gaussian"), make_images("gaussian")
    partial = Evaluation.empty(IMAGES)
    partial.done = 3
    finished = scored(model, x, result=partial)
    assert torch.isnan(finished.elbo[:3]).all()
    assert torch.isfinite(finished.elbo[3:]).all()


def test_progress_is_reported_after_every_group(monkeypatch):
    model, x, seen = make(VAE, "gaussian"), make_images("gaussian"), []
    in_chunks_of(3, 40, monkeypatch)
    scored(model, x, report=seen.append)
    assert seen == [3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*MODELS, OriginalSAVAE])
def test_metrics_of_an_image_do_not_depend_on_others(kind):
    model, x = make(kind, "gaussian"), make_images("gaussian")
    expected = scored(model, x)
    others = numbers(IMAGES, PIXELS, key="others")
    others[2] = x[2]
    assert_same(scored(model, others), expected, slice(2, 3))
    fewer = scored(model, x[:2])
    for field in FIELDS:
        torch.testing.assert_close(getattr(fewer, field), getattr(expected, field)[:2], rtol=1e-9, atol=1e-9)


def test_evaluation_changes_neither_model_nor_torch_generator():
    model, x = make(SAVAE, "gaussian"), make_images("gaussian")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    scored(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_of_no_images_is_empty():
    scores = scored(make(VAE, "gaussian"), make_images("gaussian")[:0])
    assert scores.done == 0
    assert scores.log_likelihood.shape == (0,)
