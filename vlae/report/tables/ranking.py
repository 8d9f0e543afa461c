"""The best of each column, and those that are as good as far as the runs can tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vlae.report.metric_values import array_of
from vlae.report.names import spelled
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.cells import Cell
from vlae.report.tables.significance import Difference, difference
from vlae.runs.metrics import better
from vlae.system.disk import RecordError

Group = tuple[Cell, Sequence[Run]]
"""A cell, and those of its runs that have the figure."""
Tell = Callable[[LeftOut], object]
"""Is told of each run whose figures of test images cannot be read, so that it is compared without them."""
OUTPUT = "output_dist.name"
BINARY = "bernoulli"
"""Images are black and white for it, and have probabilities; for others they have densities."""
ENOUGH_SEEDS = 3
"""Seeds that two models must share to be tested: with fewer a test can show almost nothing (decision record 11)."""
TOO_FEW = "fewer than three seeds"
SEEDS_READ = 30
"""Of so many seeds the images are read: how images differ is known well enough then."""


def judged(column: Sequence[Group], metric: str, tell: Tell) -> list[Cell]:
    """The cells of a column, the best of them marked, each other one with its difference from it.

    Where they were not all scored on the same images, each set of images has its best. There is no best of one.
    """
    sign = better(metric)
    if not sign:
        return [cell for cell, _ in column]
    images = _sets_of_images(column)
    compared: dict[str, list[Group]] = {}
    for group, own in zip(column, images, strict=True):
        if own is not None:
            compared.setdefault(own, []).append(group)
    best = {
        own: max(groups, key=lambda group: sign * (group[0].mean or 0.0))
        for own, groups in compared.items()
        if len(groups) > 1
    }
    return [
        replace(_judged(group, best.get(own) if own is not None else None, metric, tell), images=own or "")
        for group, own in zip(column, images, strict=True)
    ]


def _sets_of_images(column: Sequence[Group]) -> list[str | None]:
    """Of each group what tells its test images from those of others, ``num_images = 60``; None: it has no figure."""
    sets = [scored_on(runs[0]) if runs else None for _, runs in column]
    keys = sorted({key for one in sets if one for key in one})
    telling = [key for key in keys if len({repr(one.get(key)) for one in sets if one is not None}) > 1]
    return [None if one is None else ", ".join(spelled(key, one.get(key)) for key in telling) for one in sets]


def _judged(group: Group, best: Group | None, metric: str, tell: Tell) -> Cell:
    cell, runs = group
    if best is None:
        return cell
    if group is best:
        return replace(cell, best=True, as_good=True)
    pairs = _pairs(runs, best[1])
    equal = cell.mean == best[0].mean
    d = _difference(pairs, metric, tell)
    if d is None:
        return replace(cell, as_good=equal)
    tested = len(pairs) >= ENOUGH_SEEDS
    return replace(
        cell,
        as_good=equal or (tested and not d.significant),
        tested=tested,
        difference=d.mean,
        difference_standard_error=d.standard_error,
        p_value=d.p_value,
        paired_over=d.over,
    )


def _difference(pairs: Sequence[tuple[Run, Run]], metric: str, tell: Tell) -> Difference | None:
    """The difference of the runs of each pair. None: there is no pair, or its variance is unknown."""
    if not pairs:
        return None
    of_seeds = np.array([one.value(metric) - other.value(metric) for one, other in pairs], dtype=np.float64)
    found = [difference_of_images(one, other, metric, tell) for one, other in pairs[:SEEDS_READ]]
    arrays = [array for array in found if array is not None]
    same = len({array.shape for array in arrays}) == 1
    return difference(of_seeds, without_unknown(np.stack(arrays)) if same else None)


def _pairs(ours: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """By seed."""
    by_seed: Mapping[int, Run] = {run.settings["seed"]: run for run in others}
    both = [(run, by_seed[run.settings["seed"]]) for run in ours if run.settings["seed"] in by_seed]
    return sorted(both, key=lambda pair: pair[0].settings["seed"])


def scored_on(run: Run) -> dict[str, object]:
    """What decides on which images a run is scored, but for its seed: binary ones or not, for one."""
    found = {key: run.settings[key] for key in sorted(run.settings) if key.startswith("dataset.")}
    if run.settings.get(OUTPUT) == BINARY:
        found[OUTPUT] = BINARY
    return {**found, "evaluate.num_images": run.settings.get("evaluate.num_images")}


def difference_of_images(one: Run, other: Run, metric: str, tell: Tell) -> np.ndarray | None:
    """The figure of one minus that of the other, an entry an image. None: no image has a part of it."""
    name = array_of(metric)
    if name is None:
        return None
    ours, others = _of_images(one, name, tell), _of_images(other, name, tell)
    if ours is None or others is None:
        return None
    if ours.shape != others.shape:
        tell(LeftOut(one.id, f"it has {name} of {len(ours)} images, {other.id} of {len(others)}"))
        return None
    return ours.astype(np.float64) - others


def _of_images(run: Run, name: str, tell: Tell) -> np.ndarray | None:
    try:
        return run.per_image(name) if run.per_image else None
    except RecordError as error:
        tell(LeftOut(run.id, str(error)))
        return None


def without_unknown(d: np.ndarray) -> np.ndarray:
    """Images that every seed has a figure of."""
    return d[:, ~np.isnan(d).any(0)]
