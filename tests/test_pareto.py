"""Pareto k-hat, against an independent implementation and against tails of known shape."""

import math
import warnings

import numpy as np
import pytest

from vlae.estimation.pareto import k_hat, tail_length, unreliable_above

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of arviz: that its next version will be another
    import arviz


def largest(log_weights):
    """The largest of log-weights [samples, images]."""
    return np.sort(log_weights, 0)[-tail_length(len(log_weights)) - 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [25, 26, 100, 5000])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 5.0, 40.0, 400.0])
def test_k_hat_equals_an_independent_implementation(samples, scale):
    """This holds also if most weights underflow beside the largest."""
    log_weights = -700 + scale * np.random.default_rng(samples).standard_normal((samples, 30))
    with np.errstate(all="ignore"):
        _, expected = arviz.psislw(log_weights.T)
    found = k_hat(largest(log_weights))
    assert np.array_equal(np.isinf(found), np.isinf(expected))
    finite = np.isfinite(expected)
    assert np.allclose(found[finite], expected[finite], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_k_hat_finds_the_shape_of_pareto_tails(shape):
    """(1 - u)^-k has the tail index k; the prior pulls by (1/2 - k) 10 / (tail + 10)."""
    samples, images = 20_000, 200
    uniform = np.random.default_rng(0).random((samples, images))
    found = k_hat(largest(-shape * np.log1p(-uniform)))
    tail = tail_length(samples)
    expected = (tail * shape + 5) / (tail + 10)
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(images) + 0.01


def test_k_hat_is_independent_of_order_and_scale():
    rng = np.random.default_rng(0)
    tail = rng.standard_normal((200, 5))
    assert np.allclose(k_hat(rng.permuted(tail, axis=0) - 1e4), k_hat(tail), atol=1e-8)


def test_a_tail_of_equal_weights_is_light():
    """Weights of an exact posterior but for rounding; 106 of them put b = 0 on the grid."""
    tail = np.r_[0.0, np.full(106, 2.8e-14)]
    assert k_hat(tail[:, None]) < 0.1


def test_equal_weights_are_exact_and_a_single_weight_is_unreliable():
    assert k_hat(np.zeros((50, 1))) == [0.0]
    assert k_hat(np.r_[np.full(49, -1e4), 0.0][:, None]) == [math.inf]
    assert np.isnan(k_hat(np.arange(4.0)[:, None])).all()


def test_the_limit_of_reliability_grows_with_the_number_of_samples():
    assert unreliable_above(10) == 0
    assert unreliable_above(100) == 0.5
    assert unreliable_above(10**6) == 0.7


@pytest.mark.slow
def test_overflowing_weights_give_a_number():
    """Weights of the worst posteriors are hardly comparable: no NaN, and warnings are errors."""
    log_weights = 1000 * np.random.default_rng(0).standard_normal((5000, 3000))
    found = k_hat(largest(log_weights))
    assert not np.isnan(found).any()
    assert found.min() > unreliable_above(5000)
