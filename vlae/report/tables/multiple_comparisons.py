"""The test of several models at once: which are worse than the best, where the same data choose the best.

Decision record: docs/decisions/0011-who-is-best-in-a-table.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vlae.report.tables.significance import LEVEL, Difference


class Comparison(NamedTuple):
    """A model compared with the best of several."""

    p_value: float  # corrected for the choice of the best
    smallest: float  # the smallest difference that is significant with these seeds and images
    with_twice_seeds: float  # what that would be with twice the seeds
    with_twice_images: float | None  # None: the metric has no value for each image


def compare_with_best(
    worse: Float[np.ndarray, "models seeds"], differences: Sequence[Difference]
) -> list[Comparison]:
    """The comparison of each model with the best: it is worse if its p-value is below LEVEL.

    worse: by how much it is worse than the best, by seed; NaN: one of both has no run of this seed.
    differences: the same differences, with what is due to images.

    The variance over seeds of a difference is its own, but at least the mean of those of all differences, and at least
    the pooled one of the table of models by seeds: with three seeds a variance is too small by chance alone too often.
    A difference of t standard errors has

        p = max(P(|T_own| > t), pairs P(|T_pooled| > t)),

    Student's t with the degrees of freedom of one difference, and with those of the table, times the number of pairs of
    models (Bonferroni). So no difference is significant that the paired t-test does not find, two models are compared
    by that alone, and with equal variances it is stricter than t-tests of all pairs with the pooled variance. Models
    that are worse are taken out, and the rest is compared again, until none is worse.

    >>> from vlae.report.tables.significance import difference
    >>> worse = np.array([[1.0, 2.0, 3.0], [8.0, 10.0, 12.0]])
    >>> [round(each.p_value, 3) for each in compare_with_best(worse, [difference(row, None) for row in worse])]
    [0.074, 0.013]
    """
    found: dict[int, Comparison] = {}
    left = list(range(len(worse)))
    while left:
        found |= zip(left, _compare(worse[left], [differences[i] for i in left]), strict=True)
        kept = [i for i in left if found[i].p_value >= LEVEL]
        if kept == left:
            break
        left = kept
    return [found[i] for i in range(len(worse))]


def _compare(worse: Float[np.ndarray, "models seeds"], differences: Sequence[Difference]) -> list[Comparison]:
    family, found = _family(worse), []
    for of_seeds, each in zip(worse, differences, strict=True):
        known = of_seeds[~np.isnan(of_seeds)]
        seeds, freedom = len(known), each.freedom
        of_seed = max(float(known.var(ddof=1)), family.least_variance)
        fewer = of_seed - min(each.rest, of_seed) / 2  # with twice the images
        error = math.sqrt(of_seed / seeds + each.between_images)
        critical = family.critical(freedom)
        twice_seeds = math.sqrt(of_seed / (2 * seeds) + each.between_images)
        twice_images = math.sqrt(fewer / seeds + each.between_images / 2)
        comparison = Comparison(
            p_value=family.p_value(float(known.mean()), error, freedom),
            smallest=critical * error,
            with_twice_seeds=family.critical(freedom + seeds, 2) * twice_seeds,
            with_twice_images=None if each.over == "seeds" else critical * twice_images,
        )
        found.append(comparison)
    return found


class _Family(NamedTuple):
    """The models that are compared with the best."""

    models: int  # with the best
    shared: int  # seeds that all of them have
    least_variance: float  # over seeds, of any difference from the best

    def p_value(self, worse: float, error: float, freedom: int) -> float:
        """The p-value of a mean difference with this standard error. freedom: of one difference."""
        from scipy.special import stdtr  # takes as long to import as a table to make

        if error == 0:
            return float(worse <= 0)
        pairs, pooled = self._pairs(freedom)
        both = 2 * stdtr(freedom, -worse / error), 2 * pairs * stdtr(pooled, -worse / error)
        return min(1.0, float(max(both)))

    def critical(self, freedom: int, more: int = 1) -> float:
        """The number of standard errors whose p-value is LEVEL. more: by how much there are more seeds."""
        from scipy.special import stdtrit

        pairs, pooled = self._pairs(freedom, more)
        return float(max(stdtrit(freedom, 1 - LEVEL / 2), stdtrit(pooled, 1 - LEVEL / 2 / pairs)))

    def _pairs(self, freedom: int, more: int = 1) -> tuple[int, int]:
        """The number of pairs of models, and the degrees of freedom of their pooled variance."""
        of_model = min(freedom, more * self.shared - 1)
        pooled = (self.models - 1) * of_model if of_model > 0 else freedom
        return self.models * (self.models - 1) // 2, pooled


def _family(worse: Float[np.ndarray, "models seeds"]) -> _Family:
    models, shared = len(worse) + 1, worse[:, ~np.isnan(worse).any(0)]
    seeds, least = shared.shape[1], float(np.nanvar(worse, axis=1, ddof=1).mean())
    if seeds > 1:
        # of the best and the others, up to an effect of each seed
        table = np.vstack([np.zeros(seeds), shared])
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        least = max(least, 2 * float((rest**2).sum()) / ((models - 1) * (seeds - 1)))
    return _Family(models, seeds, least)
