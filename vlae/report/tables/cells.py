"""The cells of a table: mean and standard error over seeds, and why values are missing."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vlae.config.problems import format_value
from vlae.estimation.reliability import LARGE_ERROR, LARGE_K_HAT, common_proposal, too_low
from vlae.report.metric_values import MEAN, errors_of, of_estimator, reliability_of, what_and_estimator
from vlae.report.names import HOLE, Values
from vlae.report.runs import Run

CLAIMED_PARTS = 4  # an estimator error larger than this part of a difference makes it doubtful


class Coverage(NamedTuple):
    """The share of images drawn from the model whose true z lies in a region of a posterior, as a mean over seeds."""

    posterior: str  # own or fitted
    percent: int  # mass of the region
    share: float
    standard_error: float | None  # over seeds; of one seed over images


@dataclass(frozen=True)
class Cell:
    """The runs of one row and one column, which differ in their seeds alone."""

    row: Values
    column: Values
    runs: int  # number of runs of any state
    n: int  # number of runs that are done and have the metric
    mean: float | None = None
    standard_error: float | None = None  # over seeds, ddof 1; None: it is unknown for a single seed
    unreliable: int = 0  # how many of the n have an estimate that is marked as unreliable
    missing: str = ""  # the state of the others: ``1 queued, 2 failed (exception)``
    best: bool = False
    images: str = ""  # the set of test images, where a column has several
    as_good: bool = False  # bold: the best of its column, equal to it, or tested and not significantly worse
    seeds_in_common: int = 0  # with the best
    tested: bool = False  # compared with the best: they have ENOUGH_SEEDS (`significance`) in common
    difference: float | None = None  # paired, from the best; None: it is the best, or cannot be paired
    difference_standard_error: float | None = None
    p_value: float | None = None  # tested: that of `multiple_comparisons`; else of this difference alone
    paired_over: str = ""
    smallest_difference: float | None = (
        None  # from the best that would be significant; None: it is not tested
    )
    with_twice_seeds: float | None = None  # what that would be with twice the seeds
    with_twice_images: float | None = None  # with twice the images; None: no more exist, or none has a value
    estimator_error: float | None = None  # mean over the n; None: one has none, or none that is bounded
    unbounded: int = 0  # how many of the n have an estimator error that cannot be bounded
    coverage: tuple[Coverage, ...] = ()  # where a table has the calibration
    published: float | None = None
    published_difference: float | None = None  # ours minus the published value

    @property
    def largest_error(self) -> float | None:
        """The estimator error in nats; inf: it cannot be bounded; None: not known."""
        return math.inf if self.unbounded else self.estimator_error

    def estimate(self, decimals: int = 2) -> str:
        """Mean and standard error, ``-83.71 ± 0.02``, or a hole."""
        if self.mean is None:
            return HOLE
        error = "" if self.standard_error is None else f" ± {self.standard_error:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{error}"


def daggers(cells: Sequence[Cell]) -> bool:
    """True if each unreliable cell gets a dagger. If all of several are unreliable, the caption says it once."""
    estimates = [cell for cell in cells if cell.mean is not None]
    unreliable = sum(cell.unreliable > 0 for cell in estimates)
    return unreliable == 1 or 0 < unreliable < len(estimates)


def with_metric(runs: Sequence[Run], metric: str) -> list[Run]:
    """The runs that are done and have the metric as a number."""
    return [run for run in runs if run.number(metric) is not None]


def is_unreliable(run: Run, metric: str) -> bool:
    """True if the run's estimate of this metric is marked with a dagger."""
    mark = reliability_of(metric)
    return mark is not None and run.value(mark) is True


def estimator_error_of(run: Run, metric: str) -> float | None:
    """The error of the run's estimate that is due to the estimator; inf: it cannot be bounded; None: not known."""
    if reliability_of(metric) is None:
        return None
    total, part = errors_of(metric)
    if (error := run.number(total)) is not None:
        return float(error)
    return math.inf if {total, part} & set(run.metrics or ()) else None


def judged_by_another(run: Run, estimator: str) -> bool:
    """True if the run has a reliable estimate by the common proposal, beside which the shortfall of others is shown."""
    names = [name for what, name in map(what_and_estimator, run.metrics or ()) if what == MEAN]
    common = of_estimator(common_proposal(names))
    known = estimator_error_of(run, common) is not None
    return common != of_estimator(estimator) and known and not is_unreliable(run, common)


def why_unreliable(runs: Sequence[Run], metric: str) -> str:
    """The reason why those of these runs that are marked are unreliable: ``may be too low by up to 0.4 nats``."""
    doubted = [run for run in runs if is_unreliable(run, metric)]
    errors = [e for run in doubted if (e := estimator_error_of(run, metric)) is not None]
    reasons = [too_low(errors)] if errors else []
    return "; ".join(reasons + ([LARGE_K_HAT] if len(errors) < len(doubted) else []))


def with_claims(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a column; those whose estimator error is large beside a difference that it claims are marked.

    Claimed is each significant difference from the best. A quarter of the smallest is the most that an error may be.
    """
    found = list(cells)
    for images in dict.fromkeys(cell.images for cell in cells):
        own = [place for place, cell in enumerate(cells) if cell.images == images]
        claims = [
            abs(c.difference or 0.0) for c in (cells[place] for place in own) if c.tested and not c.as_good
        ]
        for place in own if claims else ():
            error = cells[place].largest_error
            if error is not None and error > min(claims) / CLAIMED_PARTS:
                found[place] = replace(cells[place], unreliable=cells[place].n)
    return found


def cell(row: Values, column: Values, runs: Sequence[Run], done: Sequence[Run], metric: str) -> Cell:
    """The cell of these runs, before it is compared with others."""
    values = [float(run.value(metric)) for run in done]
    mean = statistics.fmean(values) if values else None
    error = _error_of_mean(values)
    counted = {run.id for run in done}
    reasons = Counter(_why_missing(run, metric) for run in runs if run.id not in counted)
    missing = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    errors = [estimator_error_of(run, metric) for run in done]
    known = [each for each in errors if each is not None]
    unbounded = sum(map(math.isinf, known))
    off = statistics.fmean(known) if known and len(known) == len(errors) and not unbounded else None
    # the mark is of the mean that is printed, where its error is known, not of a single run
    is_small = off is not None and off <= LARGE_ERROR
    unreliable = 0 if is_small else sum(is_unreliable(run, metric) for run in done)
    found = Cell(row, column, len(runs), len(done), mean, error, unreliable, missing)
    return replace(found, estimator_error=off, unbounded=unbounded)


def coverage_of(runs: Sequence[Run]) -> tuple[Coverage, ...]:
    """The coverage of 50 and 90 % regions by the model's own posterior and by the fitted one, where all runs have it.

    >>> run = Run("vae-0", "", {}, "done", "", {"test.bracket.calibration.own.coverage_50": 0.25})
    >>> coverage_of([run])
    (Coverage(posterior='own', percent=50, share=0.25, standard_error=None),)
    """
    found = []
    for posterior, percent in itertools.product(("own", "fitted"), (50, 90)):
        metric = f"test.bracket.calibration.{posterior}.coverage_{percent}"
        if runs and len(with_metric(runs, metric)) == len(runs):
            values = [float(run.value(metric)) for run in runs]
            error = _error_of_mean(values) if len(runs) > 1 else runs[0].number(f"{metric}_standard_error")
            found.append(Coverage(posterior, percent, statistics.fmean(values), error))
    return tuple(found)


def _error_of_mean(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _why_missing(run: Run, metric: str) -> str:
    if run.state == "done":
        value = run.value(metric)
        if value is None and metric.startswith("test.") and not run.is_scored:
            return "not scored"
        return (
            "done without this metric" if value is None else f"done, but the metric is {format_value(value)}"
        )
    return ("never started" if run.state == "new" else run.state) + (f" ({run.reason})" if run.reason else "")
