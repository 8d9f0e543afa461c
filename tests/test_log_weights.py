"""Streaming over importance weights gives the direct sums, image by image, however the weights come."""

import math

import pytest
import torch
from conftest import IMAGES, numbers

from vlae.estimation.log_weights import LogWeights, log_mean_standard_error, samples_for_target
from vlae.estimation.pareto import k_hat, tail_length


def streamed(log_w, sizes):
    samples, images = log_w.shape
    weights = LogWeights(images, samples)
    for part in log_w.split(sizes):
        weights.add(part, torch.arange(images))
    return weights


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 30, 1, 22]], ids=["at once", "one by one", "in parts"])
@pytest.mark.parametrize("shift", [0.0, -5000.0, 5000.0])
def test_streaming_sums_are_the_direct_ones(sizes, shift):
    log_w = 4 * numbers(60, IMAGES) + shift
    weights = streamed(log_w, sizes)
    torch.testing.assert_close(weights.mean, log_w.mean(0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(
        weights.log_mean, torch.logsumexp(log_w, 0) - math.log(60), rtol=1e-12, atol=1e-11
    )
    w = torch.exp(log_w - shift)
    expected = w.sum(0).square() / w.square().sum(0)
    torch.testing.assert_close(weights.effective_sample_size, expected, rtol=1e-10, atol=0.0)


@pytest.mark.slow
def test_streaming_sums_of_float32_are_kept_in_float64():
    log_w = torch.full((1, 1), -1234.567)
    weights = streamed(log_w.expand(3000, -1), [1] * 3000)
    torch.testing.assert_close(weights.mean, log_w[0].double(), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(weights.log_mean, log_w[0].double(), rtol=1e-12, atol=0.0)


def test_effective_sample_size_is_the_number_of_equal_weights():
    for number in (1, 2, 50):
        ess = streamed(torch.full((number, 1), -777.7), [number]).effective_sample_size
        torch.testing.assert_close(ess, torch.tensor([float(number)]).double(), rtol=1e-10, atol=0.0)


def test_effective_sample_size_of_one_dominating_weight_is_one():
    log_w = numbers(50, 1)
    log_w[17] += 1000
    ess = streamed(log_w, [50]).effective_sample_size
    torch.testing.assert_close(ess, torch.ones(1).double(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 300.0])
def test_effective_sample_size_is_between_one_and_all_samples(spread):
    ess = streamed(spread * numbers(50, 200), [13, 37]).effective_sample_size
    assert ess.min() >= 1 - 1e-10
    assert ess.max() <= 50 + 1e-10


def test_images_may_have_different_numbers_of_weights():
    """Each as if it were alone."""
    log_w, counts = 2 * numbers(60, IMAGES), [60, 10, 35, 60]
    weights = LogWeights(IMAGES, 60)
    for sample in range(60):
        images = torch.tensor([i for i in range(IMAGES) if sample < counts[i]])
        weights.add(log_w[sample : sample + 1, images], images)
    assert weights.count.tolist() == counts
    for i, count in enumerate(counts):
        alone = streamed(log_w[:count, i : i + 1], [count])
        for name in ("mean", "log_mean", "effective_sample_size", "k_hat"):
            torch.testing.assert_close(
                getattr(weights, name)[i : i + 1], getattr(alone, name), equal_nan=True
            )


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [7, 400, 93]], ids=["at once", "one by one", "in parts"])
def test_the_tail_is_that_of_all_rounds_together(sizes):
    log_w = 3 * numbers(500, 2)
    largest = log_w.sort(0).values[-tail_length(500) - 1 :]
    torch.testing.assert_close(streamed(log_w, sizes).k_hat, torch.from_numpy(k_hat(largest.numpy())))


def test_the_standard_error_is_that_of_many_repetitions():
    """Standard error of log mean w with log-normal weights, whose variance is known: (e^{s^2} - 1) / S."""
    spread, samples = 0.5, 400
    estimates = torch.logsumexp(spread * numbers(samples, 2000), 0) - math.log(samples)
    expected = math.sqrt(math.expm1(spread**2) / samples)
    weights = streamed(spread * numbers(samples, 2000, key="other"), [samples])
    errors = log_mean_standard_error(weights.effective_sample_size, weights.count)
    assert abs(estimates.std().item() / expected - 1) < 0.06
    assert abs(errors.mean().item() / expected - 1) < 0.06


def test_an_image_takes_the_samples_of_its_target_in_hundreds():
    """(S/ESS - 1) / target^2, from 100 to the maximum, which a pilot with a bad k-hat takes."""
    rng = torch.Generator().manual_seed(0)
    equal = torch.zeros(300, 1, dtype=torch.float64)
    light = 0.5 * torch.randn(300, 1, generator=rng, dtype=torch.float64)
    wide = 10 * torch.randn(300, 1, generator=rng, dtype=torch.float64)
    heavy = -0.9 * torch.rand(300, 1, generator=rng, dtype=torch.float64).log()  # Pareto, k = 0.9
    pilot = streamed(torch.cat([equal, light, wide, heavy], 1), [300])
    variance = 300 / pilot.effective_sample_size[1].item() - 1
    for target in (1.0, 0.02, 0.01):
        needed = 100 * math.ceil(variance / target**2 / 100)
        assert samples_for_target(pilot, target, 20_000).tolist() == [100, needed, 20_000, 20_000]
    assert samples_for_target(pilot, 0.01, 750).tolist() == [100, 750, 750, 750]
    assert samples_for_target(pilot, 1.0, 50).tolist() == [50] * 4
