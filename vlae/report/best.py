"""The best of each column, and those that are as good as far as the runs can tell."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlae.report.cells import Cell
from vlae.report.collect import Run
from vlae.report.figures import array_of, direction
from vlae.report.significance import Difference, paired

Group = tuple[Cell, list[Run]]
"""A cell, and those of its runs that have the figure."""


def judged(column: Sequence[Group], metric: str) -> list[Cell]:
    """The cells of a column with the best of them marked, and each difference from it."""
    sign = direction(metric)
    told = [group for group in column if group[0].mean is not None]
    if not sign or not told:
        return [cell for cell, _ in column]
    best = max(told, key=lambda group: sign * (group[0].mean or 0.0))
    found = []
    for group in column:
        cell = group[0]
        if group is best:
            cell = replace(cell, best=True, as_good=True)
        elif cell.mean is not None and (d := _difference(group[1], best[1], metric)) is not None:
            cell = replace(
                cell,
                as_good=not d.significant,
                difference=d.mean,
                difference_standard_error=d.standard_error,
                p_value=d.p_value,
                paired_over=d.over,
            )
        found.append(cell)
    return found


def _difference(ours: Sequence[Run], others: Sequence[Run], metric: str) -> Difference | None:
    """Over images and seeds where both have an array of them, else over seeds; None: of other test images."""
    if _test_set(ours[0]) != _test_set(others[0]):
        return None
    found = paired(_per_image(ours, metric), _per_image(others, metric))
    return found or paired(
        *({_seed(run): np.array([run.value(metric)]) for run in runs} for runs in (ours, others))
    )


def _test_set(run: Run) -> dict[str, object]:
    """What decides on which images a run is scored."""
    data = {key: value for key, value in run.settings.items() if key.startswith("dataset.")}
    return {**data, "evaluate.num_images": run.settings.get("evaluate.num_images")}


def _per_image(runs: Sequence[Run], metric: str) -> dict[int, np.ndarray]:
    """By seed."""
    name, found = array_of(metric), {}
    for run in runs:
        values = run.per_image(name) if run.per_image and name else None
        if values is not None:
            found[_seed(run)] = values
    return found


def _seed(run: Run) -> int:
    return run.settings["seed"]
