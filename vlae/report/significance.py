"""Whether two models differ: paired over the same test images and the same seeds.

Decision record: docs/decisions/0011-who-is-best-in-a-table.md.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.05
"""Two-sided; a difference with a smaller p-value is significant."""


class Difference(NamedTuple):
    """Of one model's figure minus another's."""

    mean: float
    standard_error: float
    p_value: float
    over: str
    """What it is paired over: ``images and seeds``, ``images`` (of one seed), or ``seeds``."""

    @property
    def significant(self) -> bool:
        return self.p_value < LEVEL


def difference(d: Float[np.ndarray, "seeds images"]) -> Difference | None:
    """Of the paired differences d [seeds, images]; one image stands for figures that no image has a part of.

    Seeds and images are both drawn at random and crossed: d_si = mean + seed_s + image_i + rest_si, with variances
    that the mean squares of the two-way table estimate (Searle, Casella, McCulloch 1992, 4.7):

        Var(mean of d) = (MS_seeds + MS_images - MS_rest) / (seeds * images),

    and its degrees of freedom are Satterthwaite's. It is at least MS_rest / (seeds * images). With one seed, or without
    images, the other variance alone is known, and the test is the paired t-test. Nothing in it is drawn at random.
    None: there is one difference alone, or none.
    """
    seeds, images = d.shape
    if d.size < 2:
        return None
    mean = float(d.mean())
    if min(seeds, images) == 1:
        variance, freedom = d.var(ddof=1) / d.size, d.size - 1
        return _tested(mean, variance, freedom, "images" if seeds == 1 else "seeds")
    of_seed, of_image = d.mean(1, keepdims=True) - mean, d.mean(0, keepdims=True) - mean
    rest = d - mean - of_seed - of_image
    freedoms = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    squares = np.array([images * (of_seed**2).sum(), seeds * (of_image**2).sum(), (rest**2).sum()]) / freedoms
    total = max(squares[0] + squares[1] - squares[2], squares[2])
    spread = (squares**2 / freedoms).sum()
    freedom = max(total**2 / spread, freedoms.min()) if spread > 0 else 1
    return _tested(mean, total / d.size, freedom, "images and seeds")


def _tested(mean: float, variance: float, freedom: float, over: str) -> Difference:
    from scipy.special import stdtr  # takes longer to import than a table to make

    error = float(np.sqrt(variance))
    if error == 0:
        return Difference(mean, error, float(mean == 0), over)
    return Difference(mean, error, float(2 * stdtr(freedom, -abs(mean) / error)), over)


def paired(
    ours: Mapping[int, Float[np.ndarray, " images"]], others: Mapping[int, Float[np.ndarray, " others"]]
) -> Difference | None:
    """Of the seeds that both have, by what each has of its test images. None: they share no seed, or too little."""
    seeds: Sequence[int] = sorted(ours.keys() & others.keys())
    arrays = [(ours[seed], others[seed]) for seed in seeds]
    if not arrays or len({array.shape for pair in arrays for array in pair}) != 1:
        return None
    d = np.stack([one - other for one, other in arrays]).astype(np.float64)
    known = ~np.isnan(d).any(0)
    return difference(d[:, known]) if known.any() else None
