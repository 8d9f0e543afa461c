"""Mean and standard error over seeds, as tables have them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vlae.system.console import counted

SPREAD = "standard error over seeds"


def mean_and_error(
    of_seeds: Float[np.ndarray, "seeds ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and standard error (ddof 1) over the first axis. The standard error of one seed is NaN."""
    seeds = len(of_seeds)
    spread = of_seeds.std(0, ddof=1) if seeds > 1 else np.full(of_seeds.shape[1:], np.nan)
    return np.asarray(of_seeds.mean(0)), np.asarray(spread / np.sqrt(seeds))


def of_seeds(numbers: Sequence[int], and_error: str) -> str:
    """A phrase for captions.

    >>> of_seeds([3, 3], ", with")
    'mean of 3 seeds, with standard error over seeds'
    """
    least, most = min(numbers), max(numbers)
    if most == 1:
        return "one seed each"
    number = counted(most, "seed") if least == most else f"{least} to {counted(most, 'seed')}"
    return f"mean of {number}{and_error} {SPREAD}"
