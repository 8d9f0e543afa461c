"""The error of a mean log-likelihood that is due to its estimator: a bound that holds, and says what it cannot know."""

import math

import numpy as np
import pytest
import torch

from benchmarks.estimator_error import ASKED, GOOD, made_up
from vlae.estimation.estimator_error import BLOCKS, BlockStatistics, estimator_error
from vlae.estimation.log_weights import LogWeights

SETS = 30
SLACK = 3 * math.sqrt(ASKED * (1 - ASKED) / SETS)


def drawn(samples: int, images: int = 3) -> torch.Tensor:
    return torch.randn(samples, images, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stated(found: BlockStatistics, k_hat: torch.Tensor) -> tuple[float, float, float]:
    """Monte Carlo error, bias and total, all of which are known."""
    monte_carlo, bias, total = estimator_error(found, k_hat)
    assert monte_carlo is not None
    assert bias is not None
    assert total is not None
    return monte_carlo, bias, total


def added(log_w: torch.Tensor, size: int) -> LogWeights:
    weights = LogWeights(log_w.shape[1], len(log_w))
    for some in log_w.split(size):
        weights.add(some, torch.arange(log_w.shape[1]))
    return weights


@pytest.mark.parametrize("samples", [16, 100, 1000])
def test_statistics_of_blocks_are_those_of_the_samples(samples):
    log_w = drawn(samples)
    blocks = [log_w[block::BLOCKS] for block in range(BLOCKS)]

    def log_mean(chosen):
        of_chosen = torch.cat([blocks[block % BLOCKS] for block in chosen])
        return of_chosen.logsumexp(0) - math.log(len(of_chosen))

    def average(number):
        return torch.stack([log_mean(range(b, b + number)) for b in range(BLOCKS)]).mean(0)

    without = torch.stack([log_mean([b for b in range(BLOCKS) if b != left]) for left in range(BLOCKS)])
    spread = (without - without.mean(0)).square().sum(0)
    found = added(log_w, samples).blocks
    assert torch.allclose(found.rise, log_mean(range(BLOCKS)) - average(BLOCKS // 2), atol=1e-12)
    assert torch.allclose(found.rise_before, average(BLOCKS // 2) - average(BLOCKS // 4), atol=1e-12)
    assert torch.allclose(found.error, ((BLOCKS - 1) / BLOCKS * spread).sqrt(), atol=1e-12)


@pytest.mark.parametrize("size", [7, 100, 333])
def test_blocks_are_those_of_the_samples_in_whatever_order_images_are_added(size):
    log_w, weights = drawn(1000), LogWeights(3, 1000)
    for some in log_w[:300].split(size):
        weights.add(some, torch.arange(3))
    weights.add(log_w[300:, 1:2], torch.tensor([1]))
    for some in log_w[300:, [2, 0]].split(size):
        weights.add(some, torch.tensor([2, 0]))
    for values, direct in zip(weights.blocks, added(log_w, 1000).blocks, strict=True):
        assert torch.allclose(values, direct, atol=1e-12)


def test_more_samples_never_lower_the_mean():
    """The logarithm is concave: log mean w over all samples is at least its average over the halves."""
    found = added(3 * drawn(5000, images=100), 1000).blocks
    assert (found.rise >= 0).all()
    assert (found.rise_before >= 0).all()


def test_weights_of_any_scale_are_kept():
    """Blocks whose weights vanish beside the largest are blocks of their own."""
    log_w = drawn(160)
    log_w[3] += 2000
    found = added(log_w, 160).blocks
    assert all(values.isfinite().all() for values in found)
    assert torch.equal(added(log_w - 5000, 160).blocks.rise.round(decimals=9), found.rise.round(decimals=9))


def test_the_jackknife_is_the_delta_method_for_light_tails():
    weights = added(0.5 * drawn(20_000, images=400), 1000)
    ratio = weights.blocks.error.square().mean() / weights.standard_error.square().mean()
    assert abs(ratio - 1) < 0.1


def test_equal_weights_have_no_error():
    weights = added(torch.full((500, 20), -3.0), 100)
    assert max(stated(weights.blocks, weights.k_hat)) < 1e-14  # rounding


def test_too_few_samples_say_nothing():
    few, no_tail = added(drawn(15), 15), added(drawn(20), 20)
    assert estimator_error(few.blocks, few.k_hat) == (None, None, None)
    found = estimator_error(no_tail.blocks, no_tail.k_hat)
    assert found.monte_carlo is not None
    assert (found.bias, found.total) == (None, None)


def test_an_image_without_a_k_hat_is_taken_for_one_with_the_heaviest_tail():
    one = torch.ones(100, dtype=torch.float64)
    found, k_hat = BlockStatistics(error=one, rise=one, rise_before=2 * one), 0.3 * one
    k_hat[7] = math.nan
    unknown = stated(found, k_hat)
    k_hat[7] = math.inf
    assert unknown == stated(found, k_hat)


def test_a_bias_with_no_end_in_sight_is_unknown():
    one = torch.ones(100, dtype=torch.float64)
    still = BlockStatistics(error=one, rise=one, rise_before=one)
    slower = BlockStatistics(error=one, rise=one, rise_before=1.25 * one)
    assert estimator_error(still, 0.3 * one)[1:] == (None, None)
    assert stated(slower, 0.3 * one) == pytest.approx((0.1, 4, 4 + 2.5 * 0.1))  # 0.8 / (1 - 0.8)


def test_one_image_with_a_heavy_tail_leaves_the_mean_known():
    """It counts with what theory expects of it, log(1 + e / (1 - k)), and with its noise.

    Of two, or of one whose k-hat is good, no end is in sight: it may be the first to show a mode that others have, too.
    """
    one = torch.ones(100, dtype=torch.float64)
    error, rise, before, k_hat = 0.01 * one, 0.001 * one, 0.002 * one, 0.3 * one
    alone = stated(BlockStatistics(error, rise, before), k_hat)
    error[7], rise[7], k_hat[7] = 2.0, 1.0, 0.8
    found = stated(BlockStatistics(error, rise, before), k_hat)
    assert found[1] == pytest.approx((99 * alone[1] + math.log(1 + 2 / 0.2)) / 100, rel=1e-6)
    assert found[2] == pytest.approx(found[1] + math.sqrt(99 * 0.025**2 + 10**2) / 100, rel=1e-6)
    k_hat[7] = 0.3
    assert estimator_error(BlockStatistics(error, rise, before), k_hat)[1:] == (None, None)
    k_hat[7], k_hat[8], rise[8] = 0.8, 0.8, 1.0
    assert estimator_error(BlockStatistics(error, rise, before), k_hat)[1:] == (None, None)


def test_a_few_images_with_a_heavy_tail_have_a_bias_without_any_rise():
    """Theory: one image's Pareto tail of shape 0.8 lacks log(1 + 0.1 / 0.2) nats, and a hundred share it."""
    none = torch.zeros(100, dtype=torch.float64)
    k_hat, error = 0.3 * (none + 1), none + 1e-6
    k_hat[7], error[7] = 0.8, 0.1
    found = stated(BlockStatistics(error=error, rise=none, rise_before=none), k_hat)
    assert found[1] == pytest.approx(math.log(1.5) / 100, rel=1e-6)


def test_a_heavy_tail_widens_the_error():
    one = torch.ones(100, dtype=torch.float64)
    found = BlockStatistics(error=one, rise=one, rise_before=2 * one)
    light, heavy, extreme = (stated(found, k * one) for k in (0.5, 0.75, math.inf))
    assert light[1] < heavy[1] < extreme[1]
    assert light[2] < heavy[2] < extreme[2]
    r = 2 ** (1 - 1 / 0.75)
    assert math.isclose(heavy[2], r / (1 - r) + 4 * 0.1)


@pytest.mark.parametrize(("kind", "images", "samples"), [(GOOD, 50, 1000), ("Pareto, k 0.7", 50, 1000),
                                                         ("0.10% carry half", 50, 1000),
                                                         ("90 % sd 1, 10 % Pareto 0.9", 50, 1000),
                                                         ("97 % sd 1, 3 % Pareto 0.9", 50, 5000)])  # fmt: skip
def test_the_truth_lies_within_the_error(kind, images, samples):
    found = made_up(kind, images, samples, SETS, seed=1)
    assert found.covered >= ASKED - SLACK
    assert kind != GOOD or (found.unknown == 0 and found.stated < 0.02)


def test_twice_the_monte_carlo_error_alone_would_not_cover():
    generator, outside = np.random.default_rng(0), 0
    for _ in range(10):
        log_w = 2 * generator.standard_normal((200, 400)) - 2
        weights = added(torch.from_numpy(log_w), 200)
        monte_carlo, *_ = stated(weights.blocks, weights.k_hat)
        outside += abs(weights.log_mean.mean().item()) > 2 * monte_carlo
    assert outside > 5
