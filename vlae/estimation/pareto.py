"""Pareto k-hat: a diagnostic of averages of importance weights (Vehtari et al. 2024)."""

import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

FEWEST = 5
"""Smallest number of values from which the shape of a tail is estimated."""
SMALLEST = 1e-307
"""Smallest quartile of the tail in units of the largest weight: 1 over a smaller one overflows."""


def tail_length(num_samples: int) -> int:
    """Number of the largest weights that are the tail: min(S / 5, 3 sqrt S) (Vehtari et al. 2024, section 2.2).

    >>> tail_length(100), tail_length(10_000)
    (20, 300)
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def unreliable_above(num_samples: int) -> float:
    """The k-hat above which an average of S weights is unreliable: min(1 - 1 / log10 S, 0.7) (Vehtari et al. 2024).

    >>> unreliable_above(100), unreliable_above(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else 0.0


def is_heavy(k_hat: float, effective: float, num_samples: int) -> bool:
    """True if weights have too heavy a tail: k-hat is above its limit, and fewer than half of the samples effective.

    k-hat takes nearly equal weights, which have an upper limit, for a heavy tail; such samples are good as they are.

    >>> is_heavy(0.8, 200.0, 5000), is_heavy(0.8, 4000.0, 5000)
    (True, False)
    """
    return k_hat > unreliable_above(num_samples) and effective < num_samples / 2


def k_hat(largest: Float64[ndarray, "tail images"]) -> Float64[ndarray, " images"]:
    """The shape k of the generalised Pareto tail of each image's weights.

    ``largest``: the ``tail_length(S) + 1`` largest log-weights of each image, in any order; the smallest of them is
    the threshold that the others exceed. Below 1/2 the weights have a variance, from 1 on not even a mean. inf where
    one weight is all there is; 0 for equal weights, which are exact; NaN where the tail is shorter than ``FEWEST``.

    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> log_weights = -0.5 * np.log(u)  # of a Pareto distribution with k = 1/2
    >>> np.round(k_hat(np.sort(log_weights)[-tail_length(1000) - 1 :, None]), 1)
    array([0.5])
    """
    return np.array([_k_hat(np.sort(column)) for column in largest.T])


def _k_hat(log_weights: Float64[ndarray, " tail"]) -> float:
    log_weights = log_weights - log_weights[-1]
    if len(log_weights) <= FEWEST:
        return math.nan
    if log_weights[0] == 0:
        return 0.0
    threshold = max(log_weights[0], math.log(np.finfo(float).tiny))
    exceedances = np.exp(log_weights[log_weights > threshold]) - math.exp(threshold)
    if len(exceedances) < FEWEST or _quartile(exceedances) < SMALLEST:
        return math.inf  # the rest vanishes beside a few
    return _shape(exceedances)


def _quartile(x: Float64[ndarray, " n"]) -> float:
    """First quartile of ascending x, as Zhang and Stephens count."""
    return x[int(len(x) / 4 + 0.5) - 1]


def _shape(x: Float64[ndarray, " n"]) -> float:
    """k of a generalised Pareto distribution, x ascending (Zhang and Stephens 2009, with b for their theta).

    The posterior mean over a grid of b = -k / sigma, then shrunk towards 1/2 as by ten more observations
    (Vehtari et al. 2024, appendix C).
    """
    n = len(x)
    grid = 30 + int(math.sqrt(n))
    b = (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * _quartile(x)) + 1 / x[-1]
    k = np.log1p(-b[:, None] * x).mean(1)
    inverse_scale = np.divide(-b, k, where=k != 0, out=np.full_like(b, 1 / x.mean()))  # the limit where b = 0
    profile = n * (np.log(inverse_scale) - k - 1)
    weights = np.exp(profile - profile.max())
    mean = weights @ b / weights.sum()
    return float((n * np.log1p(-mean * x).mean() + 10 * 0.5) / (n + 10))
