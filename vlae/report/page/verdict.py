"""Which model is best, in words."""

from collections.abc import Sequence
from typing import NamedTuple

from vlae.console import counted
from vlae.report.captions import described
from vlae.report.cells import Cell
from vlae.report.layout import named
from vlae.report.significance import OVER_IMAGES
from vlae.report.table import Table
from vlae.summary import MARK, figure

MOST_NAMED = 5


class Verdict(NamedTuple):
    """On one column of the table, or on those of its models that were scored on the same test images."""

    said: str
    explained: str
    """By which estimator, of how many seeds, and which other models are as good."""


def verdicts(table: Table) -> list[Verdict]:
    """In the order of the columns."""
    found = []
    for column in table.columns:
        where, cells = named(table.column_keys, column), [c for c in table.cells if c.column == column]
        known = [cell for cell in cells if cell.mean is not None]
        if not known:
            found.append(Verdict(f"{where}: no run has a figure yet.", ""))
        for images in dict.fromkeys(cell.images for cell in known):
            of_images = [cell for cell in known if cell.images == images]
            found.append(_verdict(table, f"{where}, {images}" if images else where, of_images))
    return found


def _verdict(table: Table, where: str, cells: Sequence[Cell]) -> Verdict:
    best = next((cell for cell in cells if cell.best), None)
    if best is None or best.mean is None:
        return Verdict(f"{where}: no model is the best.", "Nothing is beside it to be compared with.")
    said = f"{where}: {_model(table, best)} is best, {figure(best.mean, best.standard_error)}."
    explained = [f"{described(table.metric)}; {_spread(best)}."]
    others = [cell for cell in cells if not cell.best]
    if as_good := [cell for cell in others if cell.as_good]:
        explained.append(f"Not significantly worse: {_listed(table, as_good)}.")
    elif any(cell.p_value is not None for cell in others):
        explained.append("Every other model that could be compared is significantly worse.")
    elif not others:
        explained.append("No other model has a figure yet.")
    if {cell.paired_over for cell in others if cell.paired_over} == {OVER_IMAGES}:
        explained.append(
            "Compared over the test images of one seed: this is about the models as they were trained."
        )
    if best.unreliable:
        explained.append(f"{MARK} Its estimate is not to be relied on: the weights' k-hat is too large.")
    return Verdict(said, " ".join(explained))


def _model(table: Table, cell: Cell) -> str:
    return named(table.row_keys, cell.row)


def _spread(cell: Cell) -> str:
    seeds = counted(cell.n, "seed")
    return f"{seeds}, mean ± standard error" if cell.standard_error is not None else f"{seeds}"


def _listed(table: Table, cells: Sequence[Cell]) -> str:
    by_mean = sorted(cells, key=lambda cell: abs(cell.difference or 0.0))
    words = [f"{_model(table, cell)} ({_beside(cell)})" for cell in by_mean[:MOST_NAMED]]
    more = len(cells) - MOST_NAMED
    return ", ".join(words) + (f", and {more} more" if more > 0 else "")


def _beside(cell: Cell) -> str:
    p_value = "" if cell.p_value is None else f", p = {cell.p_value:.2g}"
    return f"{figure(cell.mean or 0.0, cell.standard_error)}{p_value}"
