"""The best cell of each column, and the cells that do not differ from it significantly."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from vlae.report.metric_values import array_of
from vlae.report.names import spelling
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.cells import Cell
from vlae.report.tables.multiple_comparisons import Comparison, compare_with_best
from vlae.report.tables.significance import ENOUGH_SEEDS, LEVEL, Difference, difference
from vlae.runs.metrics import better
from vlae.system.disk import RecordError

Group = tuple[Cell, Sequence[Run]]  # a cell, and those of its runs that have the metric
Unread = dict[str, LeftOut]  # by id: runs whose results of test images cannot be read, compared without them
OUTPUT = "output_dist.name"
BINARY = "bernoulli"  # its black and white images have probabilities, those of other outputs densities
SEEDS_READ = 30  # seeds whose images are read, at most: then it is known well enough how images differ


class Paired(NamedTuple):
    """The differences of a cell's runs from those of the best cell."""

    of_seeds: Mapping[int, float]  # for each seed that both have: the metric minus that of the best
    difference: Difference | None  # None: there is no such seed, or the variance is unknown


def rank(column: Sequence[Group], metric: str, unread: Unread) -> list[Cell]:
    """The cells of a column: the best is marked, each other has its paired difference from it.

    Cells scored on different images have a best each. A single cell is not the best of anything.
    """
    sign = better(metric)
    cells = [cell for cell, _ in column]
    if not sign:
        return cells
    images = _sets_of_images(column)
    for own in dict.fromkeys(one for one in images if one is not None):
        places = [place for place, theirs in enumerate(images) if theirs == own]
        ranked = [column[place] for place in places]
        for place, cell in zip(places, _rank_comparable(ranked, metric, sign, unread), strict=True):
            cells[place] = replace(cell, images=own)
    return cells


def _sets_of_images(column: Sequence[Group]) -> list[str | None]:
    """The setting that distinguishes the test images of each group: ``num_images = 60``; None: it has no metric."""
    sets = [image_settings(runs[0]) if runs else None for _, runs in column]
    known = [one for one in sets if one is not None]
    keys = sorted({key for one in known for key in one})
    differing = [key for key in keys if len({repr(one.get(key)) for one in known}) > 1]
    names = [[spelling(key, one.get(key)) for key in differing] if one else [] for one in sets]
    return [None if one is None else ", ".join(own) for one, own in zip(sets, names, strict=True)]


def _rank_comparable(groups: Sequence[Group], metric: str, sign: int, unread: Unread) -> list[Cell]:
    """The cells of groups that are scored on the same images, of which at least one has the metric."""
    if len(groups) == 1:
        return [groups[0][0]]
    best = max(groups, key=lambda group: sign * (group[0].mean or 0.0))
    paired = [_pair(group, best, metric, unread) for group in groups]
    several_seeds = any(cell.n > 1 for cell, _ in groups)  # else no cell is bold
    tested = [
        place
        for place, one in enumerate(paired)
        if groups[place] is not best and one.difference and len(one.of_seeds) >= ENOUGH_SEEDS
    ]
    found = dict(zip(tested, _test([paired[place] for place in tested], sign), strict=True))
    if image_settings(best[1][0])["evaluate.num_images"] is None:  # the test set has no more of them
        found = {place: each._replace(with_twice_images=None) for place, each in found.items()}
    cells = []
    for place, (group, one) in enumerate(zip(groups, paired, strict=True)):
        if group is best:
            cells.append(replace(group[0], best=True, as_good=several_seeds))
        else:
            equal = several_seeds and group[0].mean == best[0].mean
            cells.append(_compared(group[0], one, found.get(place), equal))
    return cells


def _test(paired: Sequence[Paired], sign: int) -> list[Comparison]:
    if not paired:
        return []
    seeds = sorted({seed for one in paired for seed in one.of_seeds})
    worse = [[-sign * one.of_seeds.get(seed, math.nan) for seed in seeds] for one in paired]
    return compare_with_best(np.array(worse), [one.difference for one in paired if one.difference])


def _compared(cell: Cell, paired: Paired, found: Comparison | None, equal: bool) -> Cell:
    known: dict[str, Any] = {"as_good": equal, "seeds_in_common": len(paired.of_seeds)}
    if d := paired.difference:
        known |= {"difference": d.mean, "difference_standard_error": d.standard_error}
        known |= {"paired_over": d.over, "p_value": d.p_value}
    if found:
        known |= {"tested": True, "as_good": equal or found.p_value >= LEVEL, "p_value": found.p_value}
        known |= {"smallest_difference": found.smallest, "with_twice_seeds": found.with_twice_seeds}
        known |= {"with_twice_images": found.with_twice_images}
    return replace(cell, **known)


def _pair(group: Group, best: Group, metric: str, unread: Unread) -> Paired:
    if group is best:
        return Paired({}, None)
    by_seed = {run.settings["seed"]: run for run in best[1]}
    pairs = [(run, by_seed[run.settings["seed"]]) for run in group[1] if run.settings["seed"] in by_seed]
    pairs.sort(key=lambda pair: pair[0].settings["seed"])
    of_seeds = {run.settings["seed"]: run.value(metric) - other.value(metric) for run, other in pairs}
    return Paired(of_seeds, _difference(pairs, [*of_seeds.values()], metric, unread))


def _difference(
    pairs: Sequence[tuple[Run, Run]], of_seeds: Sequence[float], metric: str, unread: Unread
) -> Difference | None:
    if not pairs:
        return None
    found = [difference_of_images(one, other, metric, unread) for one, other in pairs[:SEEDS_READ]]
    arrays = [array for array in found if array is not None]
    same = len({array.shape for array in arrays}) == 1
    of_images = without_unknown(np.stack(arrays)) if same else None
    return difference(np.array(of_seeds, dtype=np.float64), of_images)


def image_settings(run: Run, *, with_noise: bool = False) -> dict[str, object]:
    """The settings that determine the test images; with_noise: with the seed, where their noise depends on it."""
    found = {key: run.settings[key] for key in sorted(run.settings) if key.startswith("dataset.")}
    if run.settings.get(OUTPUT) == BINARY:
        found[OUTPUT] = BINARY
    if with_noise and run.settings.get("dataset.fixed_evaluation") is False:
        found["seed"] = run.settings["seed"]
    return {**found, "evaluate.num_images": run.settings.get("evaluate.num_images")}


def difference_of_images(one: Run, other: Run, metric: str, unread: Unread) -> np.ndarray | None:
    """The metric of one run minus that of the other: [images]. None: the metric is no mean over images."""
    name = array_of(metric)
    if name is None:
        return None
    arrays: list[np.ndarray | None] = []
    for run in (one, other):
        try:
            arrays.append(run.per_image(name) if run.per_image else None)
        except RecordError as error:
            arrays.append(None)
            unread.setdefault(run.id, LeftOut(run.id, str(error)))
    ours, others = arrays
    if ours is None or others is None:
        return None
    if ours.shape != others.shape:
        reason = f"it has {name} of {len(ours)} images, {other.id} of {len(others)}"
        unread.setdefault(one.id, LeftOut(one.id, reason))
        return None
    return ours.astype(np.float64) - others


def without_unknown(d: np.ndarray) -> np.ndarray:
    """The images that have a value for every seed: [seeds, images] to [seeds, some images]."""
    return d[:, ~np.isnan(d).any(0)]
