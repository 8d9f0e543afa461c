"""Gaps against closed forms: with a linear Gaussian decoder the best member of each family is known."""

import pytest
import torch
from conftest import IMAGES, OUTPUTS, PIXELS, linear, make_images, make_model, numbers
from torch.distributions import MultivariateNormal

from vlae.errors import NonFiniteError
from vlae.estimation.estimators import gaps as gaps_module
from vlae.estimation.estimators.gaps import FINAL_SAMPLES, Gaps, measure_gaps
from vlae.estimation.estimators.importance import evaluate
from vlae.models.fullcov import FullCovariance
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE, OriginalSAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.models.vlae_newton import VLAENewton
from vlae.seeding import generator, image_noise
from vlae.training.objective import sample_terms

MODELS = [VAE, SAVAE, OriginalSAVAE, HF, IAF, FullCovariance, VLAE, VLAENewton]


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VAE, SAVAE])
def test_best_diagonal_gaussian_has_the_diagonal_of_the_precision(kind):
    """ELBO(q*) = log p(x) - (sum log P_ii - log det P) / 2 (Turner and Sahani 2011)."""
    model, x, evidence, P = linear_model(kind)
    gaps = measure_gaps(model, x, memory_budget=512, seed=0, steps=1000)
    expected = evidence - 0.5 * (P.diagonal().log().sum() - torch.logdet(P))
    torch.testing.assert_close(gaps.optimal_elbo, expected, rtol=0, atol=0.15)
    assert torch.all(gaps.optimal_elbo - gaps.elbo > 1), "nothing to gain: no test"


@pytest.mark.slow
def test_best_full_covariance_gaussian_is_the_posterior_itself():
    """Its log-weights are all log p(x): no noise in the estimate, no approximation gap."""
    model, x, evidence, _ = linear_model(VLAE, num_updates=1)
    gaps = measure_gaps(model, x, memory_budget=512, seed=0, steps=1000)
    torch.testing.assert_close(gaps.optimal_elbo, evidence, rtol=0, atol=0.02)
    assert torch.all(evidence - gaps.elbo > 0.1), "nothing to gain: no test"


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", MODELS)
def test_ascent_raises_the_elbo_of_each_image_independently(kind, output):
    model, x = make_model(kind, output), make_images(output)
    gaps = measure_gaps(model, x, memory_budget=512, seed=0, steps=40)
    assert (gaps.optimal_elbo - gaps.elbo).sum() > 0.05
    others = numbers(IMAGES, PIXELS, key="others") if output == "gaussian" else 1 - x
    others[0] = x[0]
    # SA-VAE's inference differs by rounding, which the ascent magnifies
    tolerance = 1e-5 if issubclass(kind, SAVAE) else 1e-8
    again = measure_gaps(model, others, memory_budget=512, seed=0, steps=40)
    torch.testing.assert_close(again.optimal_elbo[0], gaps.optimal_elbo[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(again.elbo[0], gaps.elbo[0], rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_gaps_start_from_the_elbo_of_the_evaluation(kind):
    """Both agree within their errors, for images inferred alone where they must be."""
    model, x = make_model(kind, "gaussian"), make_images("gaussian") / 3
    gaps = measure_gaps(model, x, memory_budget=512, seed=0, steps=1)
    scores = evaluate(model, x, num_samples=4000, memory_budget=512, seed=0)
    noise = image_noise([generator("cpu", 0, "evaluate", i) for i in range(IMAGES)], torch.float64)
    spread = sample_terms(model, x, noise, 400).log_weights.std(0)
    error = spread * (1 / 4000 + 1 / FINAL_SAMPLES) ** 0.5
    assert torch.all((gaps.elbo - scores.elbo).abs() < 4.5 * error + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VAE, OriginalSAVAE])
def test_a_stopped_measurement_resumes_in_groups_of_any_size(kind, monkeypatch):
    model, x = make_model(kind, "bernoulli"), make_images("bernoulli")
    expected = measure_gaps(model, x, memory_budget=512, seed=0, steps=20)
    monkeypatch.setattr(gaps_module, "group_size", lambda *arguments: 1)
    kept = Gaps.empty(IMAGES)

    def stop(images):
        if images >= 2.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_gaps(model, x, memory_budget=512, seed=0, steps=20, result=kept, report=stop)
    assert kept.done == 2
    finished = measure_gaps(model, x, memory_budget=512, seed=0, steps=20, result=kept)
    torch.testing.assert_close(finished.elbo, expected.elbo, rtol=0, atol=1e-8)
    torch.testing.assert_close(finished.optimal_elbo, expected.optimal_elbo, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_gap_that_is_not_a_number_names_the_image():
    model, x = make_model(VAE, "gaussian"), make_images("gaussian")
    x[2, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="test image 2"):
        measure_gaps(model, x, memory_budget=512, seed=0, steps=1)


@pytest.mark.slow
def test_iterations_are_the_refinements_of_inference():
    x = make_images("gaussian")
    found = [
        measure_gaps(make_model(kind, "gaussian", **keys), x, memory_budget=512, seed=0, steps=1).iterations
        for kind, keys in ((VAE, {}), (VLAE, {"num_updates": 3}), (SAVAE, {"num_steps": 2}))
    ]
    assert found == [0, 3, 2]


@pytest.mark.slow
def test_measuring_gaps_does_not_change_the_model():
    model, x = make_model(IAF, "gaussian"), make_images("gaussian")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_gaps(model, x, memory_budget=512, seed=0, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
