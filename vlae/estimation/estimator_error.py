"""Error of a printed mean log-likelihood that is due to its estimator: Monte Carlo noise, and a bound of its bias.

log mean w over S samples is too low in expectation, by less the larger S is. The samples of an image are kept as the
log-sums of ``BLOCKS`` interleaved blocks, so that log mean w over half and a quarter of the samples is known as well.
How the mean over all images rises from a quarter to a half and to all samples says how it would go on.

Decision record: docs/decisions/0025-what-a-figure-says.md; `python -m benchmarks estimator_error` validates it.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCKS = 16
"""Blocks that the samples of an image are divided into; a power of two, from 4 on."""
LARGEST_SHAPE = 0.9
"""Largest shape k of the weights' tail that is reckoned with: weights have a mean, so that their true k is below 1."""
HEAVY_SHAPE = 0.7
"""Shape from which an image has at least the bias that theory expects of its tail. Of sets in which few images have
such a tail, one in ten sees none of its large weights, and its mean does not rise either."""
STANDARD_ERRORS = 2.5
"""How many of its standard errors the noise may be large, where the weights have a variance."""
NEGLIGIBLE = 1e-6
"""Nats: a rise that is rounding."""


class BlockStatistics(NamedTuple):
    """The log-mean of each image's weights on parts of its samples, in nats."""

    error: Float[Tensor, " images"]
    """Standard error of the log-mean, by leaving out each block in turn (the jackknife)."""
    rise: Float[Tensor, " images"]
    """The log-mean over all samples minus the one over half of them."""
    rise_before: Float[Tensor, " images"]
    """The log-mean over half minus the one over a quarter of the samples."""


class EstimatorError(NamedTuple):
    """The error of a mean log-likelihood over images, in nats; None: it cannot be bounded."""

    monte_carlo: float | None
    """Standard error by the noise of the samples, the images held fixed."""
    bias: float | None
    """Upper estimate of how much the mean is too low in expectation."""
    total: float | None
    """The mean of log p(x) of these images is at most so far away in 95 of 100 cases."""


def block_statistics(
    log_sums: Float[Tensor, "blocks images"], counts: Int[Tensor, "blocks images"]
) -> BlockStatistics:
    """What the blocks of an image's weights say, from the log-sum and the number of the weights in each.

    Log-means over parts are averaged over all runs of neighbouring blocks. NaN where a block is empty.

    >>> found = block_statistics(torch.zeros(16, 1), torch.ones(16, 1).long())  # equal weights are exact
    >>> found.error.item(), found.rise.item()
    (0.0, 0.0)
    """
    log_sums, counts = log_sums.double(), counts.double()
    sums, sizes, log_means = log_sums, counts, []
    for blocks in (1 << step for step in range(BLOCKS.bit_length() - 1)):
        sums, sizes = torch.logaddexp(sums, sums.roll(blocks, 0)), sizes + sizes.roll(blocks, 0)
        log_means.append((sums - sizes.log()).mean(0))
    quarter, half, whole = log_means[-3:]
    itself = torch.eye(BLOCKS, dtype=torch.bool)[..., None]
    others = log_sums.expand(BLOCKS, *log_sums.shape).masked_fill(itself, -torch.inf).logsumexp(1)
    without = others - (counts.sum(0) - counts).log()
    error = ((BLOCKS - 1) ** 2 / BLOCKS * without.var(0)).sqrt()
    known = (counts > 0).all(0)
    return BlockStatistics(*(x.where(known, torch.nan) for x in (error, whole - half, half - quarter)))


def estimator_error(found: BlockStatistics, k_hat: Float[Tensor, " images"]) -> EstimatorError:
    """The error of the mean log-likelihood over these images.

    The bias is taken for a power of the number of samples: if each doubling raises the mean by r times what the last
    one did, D, it ends D r / (1 - r) higher. r is 1/2 for weights with a variance, and 2^(1 - 1/k) for a tail of shape
    k > 1/2, so each image's rise counts r / (1 - r) times with its k-hat; and the factor is at least the one for the
    ratio of the last two rises of the mean. All three, D and both factors, are upper estimates by their spread over
    images. Where the last rise, so estimated, is not smaller than the one before, new modes may still be found and
    no end is in sight. One image alone with a heavy tail, whose last samples happened to be its largest, does not
    decide this: it is set aside, and counts with what theory expects of it. The bias is at least what theory
    expects of images with a heavy tail: a sum of weights whose noise, that of the largest of them, has the relative
    size e lacks about e / (1 - k). The noise of such an image counts 1 / (1 - k) times. An image with too few
    samples for a k-hat, beside others with one, is taken for one with the heaviest tail.

    >>> images = torch.full((100,), 0.01)
    >>> noise = BlockStatistics(error=images, rise=images / 100, rise_before=images / 50)
    >>> [round(x, 5) for x in estimator_error(noise, k_hat=10 * images)]
    [0.001, 0.0001, 0.0026]
    """
    error, rise, before = (values.double() for values in found)
    images = len(error)
    if not images or error.isnan().any():
        return EstimatorError(None, None, None)
    monte_carlo = float(error.square().sum().sqrt()) / images
    if k_hat.isnan().all():
        return EstimatorError(monte_carlo, None, None)
    rise, before, k = (
        rise.clamp(min=0),
        before.clamp(min=0),
        k_hat.double().nan_to_num(LARGEST_SHAPE).clamp(0.5, LARGEST_SHAPE),
    )
    expected = torch.log1p(error / (1 - k))
    pooled = torch.ones(images, dtype=torch.bool)
    odd = int((rise - before).argmax())
    if _upper_ratio(rise, before) >= 1 and images > 1 and k[odd] > HEAVY_SHAPE:
        pooled[odd] = False
    others = rise[pooled]
    ratio = max(_upper_ratio(others, before[pooled]), 0.5)
    if ratio >= 1:
        return EstimatorError(monte_carlo, None, None)
    of_tails = _upper_ratio(others * _sum_of_powers(2 ** (1 - 1 / k[pooled])), others)
    rising = float(others.mean() + 2 * _standard_error(others)) * max(of_tails, _sum_of_powers(ratio))
    unseen = expected[pooled].where(k[pooled] > HEAVY_SHAPE, 0.0)
    bias = (max(rising, float(unseen.mean())) * len(others) + float(expected[~pooled].sum())) / images
    noise = error * (1 / (1 - k)).clamp(min=STANDARD_ERRORS)
    return EstimatorError(monte_carlo, bias, bias + float(noise.square().sum().sqrt()) / images)


def _sum_of_powers(r: Any) -> Any:
    """r + r^2 + ..."""
    return r / (1 - r)


def _standard_error(values: Float[Tensor, " images"]) -> Float[Tensor, ""]:
    """The standard error of their mean; of a single one its size."""
    return values.std() / len(values) ** 0.5 if len(values) > 1 else values.abs().mean()


def _upper_ratio(above: Float[Tensor, " images"], below: Float[Tensor, " images"]) -> float:
    """The ratio of two means over images, plus its standard error by the delta method."""
    mean = below.mean().clamp(min=NEGLIGIBLE)
    ratio = above.mean() / mean
    return float(ratio + _standard_error((above - ratio * below) / mean))
