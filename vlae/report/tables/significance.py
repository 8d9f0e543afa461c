"""Tests if two models differ, paired over the same seeds and the same test images.

Decision record: docs/decisions/0011-who-is-best-in-a-table.md.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.05  # two-sided; a difference with a smaller p-value is significant
ENOUGH_SEEDS = 3  # seeds that two models must share to be tested: with fewer a test can show almost nothing


class Difference(NamedTuple):
    """The metric of one model minus that of another."""

    mean: float
    standard_error: float
    p_value: float
    over: str  # what it is paired over: ``images and seeds``, ``images`` (of one seed), or ``seeds``
    freedom: int  # degrees of freedom of the standard error
    between_images: float = (
        0.0  # the part of the variance that other test images would change alike for all seeds
    )
    rest: float = 0.0  # the variance of one seed's difference that is due to neither seed nor image alone

    @property
    def significant(self) -> bool:
        """True if the test rejects that both models have the same mean."""
        return self.p_value < LEVEL

    @property
    def interval(self) -> tuple[float, float]:
        """The means that the test does not reject: 0 lies outside where the difference is significant."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - LEVEL / 2)) * self.standard_error
        return self.mean - half, self.mean + half


def difference(
    of_seeds: Float[np.ndarray, " seeds"], of_images: Float[np.ndarray, "some images"] | None
) -> Difference | None:
    """The test of paired differences: those of the metric of each seed, and of each image of some of these seeds.

    Seeds and images are drawn at random and crossed, d_si = mean + seed_s + image_i + rest_si, so the mean over all has

        variance = var_s(d_s) / seeds + max(0, MS_images - MS_rest) / (some * images),

    d_s being the differences of the seeds, and MS the mean squares of the two-way table of ``of_images``: the usual
    estimates of variance components. It is given as many degrees of freedom as the scarcer of both has, so that equal
    models differ significantly at most as often as LEVEL says. With one seed only the variance over images is known,
    without images only that over seeds: then it is the paired t-test. None: no variance is known.

    >>> found = difference(np.array([1.0, 2.0, 3.0]), None)
    >>> found.mean, round(found.p_value, 3), found.over
    (2.0, 0.074, 'seeds')
    """
    seeds, images = len(of_seeds), 0 if of_images is None else of_images.shape[1]
    if of_images is None or images < 2:
        return _test(of_seeds, _spread(of_seeds), seeds - 1, "seeds") if seeds > 1 else None
    if seeds == 1:
        return _test(of_seeds, _spread(of_images[0]), images - 1, "images")
    of_image = of_images.mean(0)
    rest = of_images - of_image - of_images.mean(1, keepdims=True) + of_images.mean()
    mean_square = float((rest**2).sum()) / max(1, (len(of_images) - 1) * (images - 1))
    between_images = max(0.0, _spread(of_image) - mean_square / rest.size)
    variance, freedom = _spread(of_seeds) + between_images, min(seeds, images) - 1
    found = _test(of_seeds, variance, freedom, "images and seeds")
    return found._replace(between_images=between_images, rest=mean_square / images)


def _spread(values: Float[np.ndarray, " n"]) -> float:
    """The variance of their mean."""
    return float(values.var(ddof=1)) / len(values)


def _test(of_seeds: Float[np.ndarray, " seeds"], variance: float, freedom: int, over: str) -> Difference:
    from scipy.special import stdtr  # takes as long to import as a table to make

    mean, error = float(of_seeds.mean()), float(np.sqrt(variance))
    p_value = float(2 * stdtr(freedom, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Difference(mean, error, p_value, over, freedom)
