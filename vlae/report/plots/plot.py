"""A kind of figure: the runs that can be in it, its options, its panels, and the function that draws it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vlae.report.names import group_name
from vlae.report.plots.frame import Captioned
from vlae.report.runs import Run, Runs
from vlae.report.tables.groups import COLUMNS, Configuration, configurations, full_keys, row_keys_of
from vlae.system.console import count_of


class Panel(NamedTuple):
    """One dataset and output distribution, with a series for each configuration."""

    title: str
    series: tuple[Configuration, ...]


class Options(NamedTuple):
    """The options of a figure."""

    metric: str | None  # None where the kind shows no metric of results.json
    published: bool
    images: int
    samples: int | None  # None: as many as the runs were evaluated with
    narrow: bool  # panels below each other, the legend below them: for a column of a paper, or a phone
    warn: Callable[[str], None]  # receives a line for each run that is left out, with the reason


class PlotKind(NamedTuple):
    """One kind of figure."""

    shows: str  # one sentence
    draw: Callable[[Sequence[Panel], Options], Captioned]  # UserError: nothing can be drawn
    of: Callable[[Run], bool] = lambda run: run.metrics is not None  # whether a run can be in it
    lacking: str = "no run is done"  # the reason where no run can be in it
    images: int | None = None  # the default number of test images, for a kind that loads trained models
    metric: bool = False  # whether it has the option --metric; the next two likewise
    published: bool = False
    samples: bool = False
    by_updates: bool = False  # whether T always names a series
    shown: str | None = None  # the metric that it shows, where --metric does not choose one


def panels(runs: Runs, known: Runs, rows: Sequence[str] | None, by_updates: bool) -> list[Panel]:
    """A panel for each column of a table. UserError: a series would have more than one setting.

    rows: the keys that name a series, which any of the ``known`` runs has; None: the default ones of a table, always
    with T if ``by_updates``.
    """
    named_by = ("model.name", "T") if by_updates else ()
    keys = full_keys(rows, known, "--rows") if rows else row_keys_of(runs, named_by)
    found: dict[str, list[Configuration]] = {}
    for series in configurations(runs, keys):
        found.setdefault(group_name(COLUMNS, series.column), []).append(series)
    return [Panel(title, tuple(series)) for title, series in found.items()]


def mean_and_error(
    of_seeds: Float[np.ndarray, "seeds ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and standard error (ddof 1) over the first axis. The standard error of one seed is NaN.

    >>> mean_and_error(np.array([1.0, 3.0]))
    (array(2.), array(1.))
    """
    seeds = len(of_seeds)
    spread = of_seeds.std(0, ddof=1) if seeds > 1 else np.full(of_seeds.shape[1:], np.nan)
    return np.asarray(of_seeds.mean(0)), np.asarray(spread / np.sqrt(seeds))


def seeds_phrase(numbers: Sequence[int], and_error: str) -> str:
    """The numbers of seeds behind means, as a caption says it.

    >>> seeds_phrase([3, 3], ", with")
    'mean of 3 seeds, with standard error over seeds'
    """
    least, most = min(numbers), max(numbers)
    if most == 1:
        return "one seed each"
    number = count_of(most, "seed") if least == most else f"{least} to {count_of(most, 'seed')}"
    return f"mean of {number}{and_error} standard error over seeds"
