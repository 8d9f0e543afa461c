"""The best cell of each column, and the cells that do not differ from it significantly."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlae.report.metric_values import array_of
from vlae.report.names import spelling
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.cells import Cell
from vlae.report.tables.significance import ENOUGH_SEEDS, Difference, difference
from vlae.runs.metrics import better
from vlae.system.disk import RecordError

Group = tuple[Cell, Sequence[Run]]  # a cell, and those of its runs that have the metric
Unread = dict[str, LeftOut]  # by id: runs whose results of test images cannot be read, compared without them
OUTPUT = "output_dist.name"
BINARY = "bernoulli"  # its black and white images have probabilities, those of other outputs densities
SEEDS_READ = 30  # seeds whose images are read, at most: then it is known well enough how images differ


def rank(column: Sequence[Group], metric: str, unread: Unread) -> list[Cell]:
    """The cells of a column: the best is marked, each other has its paired difference from it.

    Cells scored on different images have a best each. A single cell is not the best of anything.
    """
    sign = better(metric)
    if not sign:
        return [cell for cell, _ in column]
    images, cells = _sets_of_images(column), []
    for group, own in zip(column, images, strict=True):
        same = [other for other, theirs in zip(column, images, strict=True) if theirs == own]
        best = max(same, key=lambda other: sign * (other[0].mean or 0.0))
        compared = own is not None and len(same) > 1
        cell = _compare(group, best, metric, unread) if compared else group[0]
        cells.append(replace(cell, images=own or ""))
    return cells


def _sets_of_images(column: Sequence[Group]) -> list[str | None]:
    """The setting that distinguishes the test images of each group: ``num_images = 60``; None: it has no metric."""
    sets = [image_settings(runs[0]) if runs else None for _, runs in column]
    known = [one for one in sets if one is not None]
    keys = sorted({key for one in known for key in one})
    differing = [key for key in keys if len({repr(one.get(key)) for one in known}) > 1]
    names = [[spelling(key, one.get(key)) for key in differing] if one else [] for one in sets]
    return [None if one is None else ", ".join(own) for one, own in zip(sets, names, strict=True)]


def _compare(group: Group, best: Group, metric: str, unread: Unread) -> Cell:
    cell, runs = group
    if group is best:
        return replace(cell, best=True, as_good=True)
    by_seed = {run.settings["seed"]: run for run in best[1]}
    pairs = [(run, by_seed[run.settings["seed"]]) for run in runs if run.settings["seed"] in by_seed]
    pairs.sort(key=lambda pair: pair[0].settings["seed"])
    equal = cell.mean == best[0].mean
    d = _difference(pairs, metric, unread)
    if d is None:
        return replace(cell, as_good=equal)
    tested = len(pairs) >= ENOUGH_SEEDS
    as_good = equal or (tested and not d.significant)
    cell = replace(cell, as_good=as_good, tested=tested, paired_over=d.over, p_value=d.p_value)
    return replace(cell, difference=d.mean, difference_standard_error=d.standard_error)


def _difference(pairs: Sequence[tuple[Run, Run]], metric: str, unread: Unread) -> Difference | None:
    """The difference of the runs of each pair. None: there is no pair, or its variance is unknown."""
    if not pairs:
        return None
    of_seeds = np.array([one.value(metric) - other.value(metric) for one, other in pairs], dtype=np.float64)
    found = [difference_of_images(one, other, metric, unread) for one, other in pairs[:SEEDS_READ]]
    arrays = [array for array in found if array is not None]
    same = len({array.shape for array in arrays}) == 1
    return difference(of_seeds, without_unknown(np.stack(arrays)) if same else None)


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
