"""What a cell of a table says of its runs."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlae.config.problems import shown
from vlae.report.filter import is_number
from vlae.report.metric_values import reliability_of
from vlae.report.runs import DAMAGED, Run

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """The runs of one row and one column, which differ in their seeds alone."""

    row: Values
    column: Values
    runs: int
    """Of any state."""
    n: int
    """That are done and have the figure."""
    mean: float | None = None
    standard_error: float | None = None
    """Over seeds, ddof 1; None: of one seed it is unknown."""
    unreliable: int = 0
    """Of n: their estimator's weights have a bad k-hat on too many images."""
    missing: str = ""
    """What is true of the others: ``1 queued, 2 failed (exception)``."""
    best: bool = False
    images: str = ""
    """Which set of test images of its column it was scored on; empty: the column has one."""
    as_good: bool = False
    """The best of its column, equal to it, or tested and not significantly different from it."""
    tested: bool = False
    """Whether its difference from the best counts as tested: both have at least ENOUGH_SEEDS (`best.py`) in common."""
    difference: float | None = None
    """From the best, paired; None: it is the best, or cannot be paired with it."""
    difference_standard_error: float | None = None
    p_value: float | None = None
    paired_over: str = ""
    published: float | None = None
    published_difference: float | None = None
    """Ours minus the published."""


def daggers(cells: Sequence[Cell]) -> bool:
    """Whether each unreliable cell gets a dagger. Where all of several are unreliable the caption says it once."""
    estimates = [cell for cell in cells if cell.mean is not None]
    unreliable = sum(cell.unreliable > 0 for cell in estimates)
    return unreliable == 1 or 0 < unreliable < len(estimates)


def amount(run: Run, figure: str) -> float | None:
    """None: the run has no such figure, or what it has is no number."""
    value = run.value(figure)
    return value if is_number(value) and math.isfinite(value) else None


def with_figure(runs: Sequence[Run], metric: str) -> list[Run]:
    """Those that are done and have it, as a number."""
    return [run for run in runs if amount(run, metric) is not None]


def cell(row: Values, column: Values, runs: Sequence[Run], done: Sequence[Run], metric: str) -> Cell:
    """Without what is known only beside others."""
    figures = [float(run.value(metric)) for run in done]
    mark = reliability_of(metric)
    return Cell(
        row,
        column,
        len(runs),
        len(done),
        statistics.fmean(figures) if figures else None,
        statistics.stdev(figures) / math.sqrt(len(figures)) if len(figures) > 1 else None,
        sum(run.value(mark) is True for run in done) if mark else 0,
        _why_missing(runs, done, metric),
    )


def _why_missing(runs: Sequence[Run], done: Sequence[Run], metric: str) -> str:
    counted = {run.id for run in done}
    reasons = Counter(_why(run, metric) for run in runs if run.id not in counted)
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))


def _why(run: Run, metric: str) -> str:
    if run.state == "done":
        value = run.value(metric)
        return "done without this figure" if value is None else f"done, but its figure is {shown(value)}"
    state = "never started" if run.state == "new" else run.state
    # what is damaged differs from run to run, and stands with what was left out
    return f"{state} ({run.reason})" if run.reason and run.state != DAMAGED else state
