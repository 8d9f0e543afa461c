"""Metrics of an evaluation: in nats of pixels in [0, 1], with a measure of their reliability."""

import math
import statistics

import numpy as np
import pytest
import torch
from conftest import make_images, make_model, numbers

from vlae.config.schema import Evaluate
from vlae.data.preprocess import Preprocess
from vlae.data.splits import Splits
from vlae.estimation.estimators.gaps import Gaps, best_of_other_half
from vlae.estimation.estimators.importance import Evaluation, evaluate, fit_metrics
from vlae.estimation.metrics import Scores, save_scores
from vlae.estimation.metrics import test_set_metrics as metrics_of
from vlae.estimation.parts import Subject
from vlae.estimation.per_image import mean_and_standard_error
from vlae.models.vae import VAE
from vlae.seeding import generator


def scores(proposals, preprocess, x, num_samples=77, **others):
    """Results of these proposals and of other estimators, by key; the model is not asked again."""
    subject = Subject(make_model(VAE, "gaussian"), preprocess, x, Evaluate(num_samples=num_samples), seed=0)
    return Scores(subject, {f"proposals.{name}": found for name, found in proposals.items()} | others)


def metrics(proposals, preprocess, x, num_samples, **others):
    return metrics_of(scores(proposals, preprocess, x, num_samples, **others))


def test_mean_and_standard_error_match_the_standard_library():
    values = numbers(17)
    mean, error = mean_and_standard_error(values)
    assert math.isclose(mean, statistics.mean(values.tolist()), rel_tol=1e-12)
    assert math.isclose(error, statistics.stdev(values.tolist()) / 17**0.5, rel_tol=1e-12)
    assert mean_and_standard_error(values[:1]) == (values[0].item(), None)


def preprocessed(**settings):
    """(preprocess, x) of ten images with 2 x 2 pixels, none of them black or white, where `inverse` is clamped."""
    images = torch.randint(1, 255, (10, 1, 2, 2), generator=generator("cpu", "images")).to(torch.uint8)
    data = Splits(train=images, validation=images, test=images, levels=256, seed=0)
    preprocess = Preprocess.fit(settings, data, "real", dtype=torch.float64)
    return preprocess, preprocess.evaluation_set(images, "test")


def known(preprocess, x):
    """An evaluation with some numbers, and log |det dx/dy|, y in [0, 1], by automatic differentiation."""
    elbo = numbers(len(x), key="elbo")
    evaluation = Evaluation.empty(len(x))
    evaluation.elbo, evaluation.log_likelihood = elbo, elbo + numbers(len(x)).exp()
    evaluation.ess, evaluation.samples = (
        1 + numbers(len(x), key="ess").exp(),
        torch.full((len(x),), 77.0).double(),
    )
    evaluation.k_hat = numbers(len(x), key="k").abs()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: preprocess.inverse(one[None])[0]))(x)
    return evaluation, -torch.linalg.slogdet(jacobian)[1]


@pytest.mark.parametrize(
    "settings", [{}, {"dequantise": True}, {"dequantise": True, "logit_transform": True}]
)
def test_reported_densities_are_of_pixels_in_0_to_1(settings):
    preprocess, x = preprocessed(**settings, **{"lambda": 0.05})
    evaluation, log_det = known(preprocess, x)
    reported = metrics({"own": evaluation}, preprocess, x, 77)
    own = reported["log_likelihood"]["own"]
    log_p = (evaluation.log_likelihood + log_det).tolist()
    elbo = (evaluation.elbo + log_det).tolist()
    assert math.isclose(own["mean"], statistics.mean(log_p), rel_tol=1e-9)
    assert math.isclose(own["standard_error"], statistics.stdev(log_p) / 10**0.5, rel_tol=1e-9)
    assert math.isclose(reported["elbo"], statistics.mean(elbo), rel_tol=1e-9)
    assert math.isclose(reported["elbo_standard_error"], statistics.stdev(elbo) / 10**0.5, rel_tol=1e-9)
    assert math.isclose(own["mean_in_model_space"], evaluation.log_likelihood.mean().item(), rel_tol=1e-12)
    assert (own["num_samples"], own["num_images"]) == (77, 10)
    ess = sorted(evaluation.ess.tolist())
    assert own["ess_min"] == ess[0]
    assert ess[4] <= own["ess_median"] <= ess[5]


def test_bits_per_dim_of_a_uniform_model_are_eight():
    """Uniform over 256 levels: whatever the transform, its density of y in [0, 1] is one."""
    preprocess, x = preprocessed(dequantise=True, logit_transform=True, **{"lambda": 0.05})
    evaluation, log_det = known(preprocess, x)
    evaluation.log_likelihood = -log_det
    assert math.isclose(metrics({"own": evaluation}, preprocess, x, 1)["bits_per_dim"], 8.0, rel_tol=1e-9)
    preprocess, x = preprocessed()
    assert metrics({"own": known(preprocess, x)[0]}, preprocess, x, 1)["bits_per_dim"] is None


def test_stored_scores_have_one_number_per_image(tmp_path):
    """Scores in the space of results.json; the Jacobian that this adds is stored beside them."""
    model, x = make_model(VAE, "gaussian"), make_images("gaussian")
    settings = {"num_samples": 40, "memory_budget": 16, "seed": 0}
    evaluations = {name: evaluate(model, x, proposal=name, **settings) for name in ("own", "laplace")}
    found = scores(evaluations, preprocessed()[0], x)
    found.subject.log_jacobian = numbers(len(x), key="jacobian")
    save_scores(tmp_path / "scores.npz", found)
    fields = ("elbo", "log_likelihood", "ess", "k_hat", "samples", "block_error", "rise", "rise_before")
    with np.load(tmp_path / "scores.npz") as stored:
        assert set(stored) == {*fields, *(f"{field}_laplace" for field in fields), "log_jacobian"}
        for name, end in (("own", ""), ("laplace", "_laplace")):
            for field in fields:
                expected = getattr(evaluations[name], field).numpy()
                if field in ("elbo", "log_likelihood"):
                    expected = expected + stored["log_jacobian"]
                assert np.array_equal(stored[f"{field}{end}"], expected)


STAGE = [0, 0, 1, 0, 2, 0, 1, 2, 0, 0]


def fitted(preprocess, x):
    """An evaluation by a fitted proposal whose images reached these stages, and are reliable but for two."""
    evaluation, _ = known(preprocess, x)
    evaluation.components = torch.tensor([1.0, 3.0] * 5).double()
    reached = torch.tensor(STAGE)
    evaluation.fit_seconds = torch.full((10,), 0.5).double()
    evaluation.longer_seconds = torch.where(reached >= 1, 2.0, math.nan).double()
    evaluation.longer_seconds[7] = math.nan  # its group went straight to annealing
    evaluation.annealed_seconds = torch.where(reached >= 2, 8.0, math.nan).double()
    evaluation.k_hat = torch.tensor([0.1] * 4 + [0.9] + [0.1] * 2 + [0.9] + [0.1] * 2).double()
    return evaluation


def test_each_stage_of_a_fit_has_its_images_and_seconds(tmp_path):
    preprocess, x = preprocessed()
    evaluations = {"own": known(preprocess, x)[0], "fitted": fitted(preprocess, x)}
    found = scores(evaluations, preprocess, x)
    by = metrics_of(found)["log_likelihood"]
    assert by["fitted"]["stages"] == {"fit": 10, "longer": 3, "annealed": 2}
    assert by["fitted"]["components_mean"] == 2.0
    assert "stages" not in by["own"]
    assert found.cost()["seconds_by_stage"] == {"fitted": {"fit": 5.0, "longer": 6.0, "annealed": 16.0}}
    save_scores(tmp_path / "scores.npz", found)
    with np.load(tmp_path / "scores.npz") as stored:
        assert stored["stage_fitted"].tolist() == STAGE
        assert stored["components_fitted"].tolist() == [1.0, 3.0] * 5
        assert not {"stage", "components"} & set(stored)


def test_images_that_stay_unreliable_are_counted_and_named():
    preprocess, x = preprocessed()
    evaluation = fitted(preprocess, x)
    found = metrics({"own": evaluation, "fitted": evaluation}, preprocess, x, 77)["log_likelihood"]["fitted"]
    assert found["unreliable_images"] == {"number": 2, "positions": "4, 7"}
    many = Evaluation.empty(30)
    many.k_hat, many.samples = torch.full((30,), 0.9).double(), torch.full((30,), 77.0).double()
    many.ess = torch.full((30,), 5.0).double()
    assert fit_metrics(many)["unreliable_images"] == {
        "number": 30, "positions": ", ".join(map(str, range(20)))
    }  # fmt: skip
    many.k_hat[:] = 0.1
    assert fit_metrics(many)["unreliable_images"] == {"number": 0, "positions": None}


def test_unreliability_depends_on_the_samples_of_each_image():
    preprocess, x = preprocessed()
    evaluation, _ = known(preprocess, x)
    evaluation.samples = torch.tensor([100.0] * 5 + [10**6] * 5).double()  # limits 0.5 and 0.7
    evaluation.k_hat = torch.tensor([0.4, 0.6, 0.6, 0.8, 0.1] * 2).double()
    own = metrics({"own": evaluation}, preprocess, x, 10**6)["log_likelihood"]["own"]
    assert own["k_hat_unreliable"] == 4 / 10
    evaluation.k_hat[3] = math.nan
    own = metrics({"own": evaluation}, preprocess, x, 10**6)["log_likelihood"]["own"]
    assert (own["k_hat_unreliable"], own["k_hat_unknown"]) == (3 / 9, 1)


def test_samples_for_a_tenth_of_a_nat_give_that_error():
    preprocess, x = preprocessed()
    evaluation, _ = known(preprocess, x)
    evaluation.ess = torch.full((len(x),), 7.0).double()
    needed = metrics({"own": evaluation}, preprocess, x, 77)["log_likelihood"]["own"]["samples_for_a_tenth"]
    efficiency = 7.0 / 77.0
    assert math.isclose(math.sqrt((1 / efficiency - 1) / needed), 0.1, rel_tol=1e-12)


def test_gaps_sum_to_log_likelihood_minus_elbo():
    preprocess, x = preprocessed(dequantise=True, logit_transform=True, **{"lambda": 0.05})
    evaluation, log_det = known(preprocess, x)
    better, _ = known(preprocess, x)
    better.log_likelihood = evaluation.log_likelihood + 0.5
    elbo = evaluation.elbo[:4]
    gaps = Gaps(elbo + 0.1, elbo + 0.3, elbo + 0.3, iterations=4)
    found = metrics({"own": evaluation, "laplace": better}, preprocess, x, 77, gaps=gaps)["gaps"]
    assert (found["num_images"], found["log_likelihood_by"], found["iterations"]) == (4, "laplace", 4)
    assert math.isclose(found["amortisation"], 0.2, rel_tol=1e-9)
    total = found["log_likelihood"] - found["elbo"]
    assert math.isclose(found["amortisation"] + found["approximation"], total, rel_tol=1e-9)
    level = (better.log_likelihood + log_det)[:4].mean().item()
    assert math.isclose(found["log_likelihood"], level, rel_tol=1e-9)


def test_the_family_itself_may_have_the_best_estimate():
    preprocess, x = preprocessed()
    evaluation, _ = known(preprocess, x)
    worse = evaluation.log_likelihood[:4] + 5
    gaps = Gaps(worse, worse + 1, worse + 1.5, iterations=0)
    found = metrics({"own": evaluation}, preprocess, x, 77, gaps=gaps)["gaps"]
    assert found["log_likelihood_by"] == "best of the family"
    assert math.isclose(found["approximation"], 0.5, rel_tol=1e-9)


def test_the_best_estimate_is_a_lower_bound_in_expectation():
    """Where all estimates are equal but for their noise, the highest mean is too high."""
    noise = numbers(3, 4, 5000)
    repeated = (dict(zip("abc", noise[..., i], strict=True)) for i in range(5000))
    found = torch.stack([best_of_other_half(estimates)[0].mean() for estimates in repeated])
    error = found.std() / 5000**0.5
    assert found.mean() < 3 * error
    highest = noise.mean(1).max(0).values
    assert highest.mean() > 10 * error


def test_the_best_estimate_is_the_best_where_one_is():
    values = numbers(6)
    found, by = best_of_other_half({"a": values - 1, "b": values, "c": values - 2})
    assert torch.equal(found, values)
    assert by == ["b"]
    assert best_of_other_half({"a": values[:1], "b": values[:1] + 1})[1] == ["a", "b"]
