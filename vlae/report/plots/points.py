"""A metric of results.json over the number of updates: the paper's chart of likelihoods, with points instead of bars.

A bar would begin at an arbitrary value, and its length would mean nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.metric_values import reliability_of, what_and_estimator
from vlae.report.plots.frame import NARROW, Captioned, dagger, dagger_notes, few_numbers, frame, legend
from vlae.report.plots.plot import Options, PlotKind
from vlae.report.plots.seeds import mean_and_error, of_seeds
from vlae.report.plots.series import Panel, Series
from vlae.report.plots.style import filling
from vlae.report.tables.captions import NAMES, UNIT, description, literature
from vlae.report.tables.cells import with_metric
from vlae.report.tables.published import Published, published
from vlae.system.console import counted

WIDTH = 0.7
"""Width of the points of one T together; 1 is the distance from one T to the next."""
WIDEST = 7.0
"""Inches: a panel as wide as a page."""
LABELS_AN_INCH = 3.0
PUBLISHED = "published"
NONE = "none"
"""The label of models without updates."""


class _Point(NamedTuple):
    series: Series
    name: str
    """The name of the series, without T, which is the axis."""
    filling: str
    mean: float
    error: float
    unreliable: bool
    published: Published | None


def points(panels: Sequence[Panel], options: Options) -> Captioned:
    """A group of points for each T, one point per model with its standard error; published values are open diamonds."""
    metric = options.metric or ""
    kept = [with_metrics(panel, [metric], options.warn) for panel in panels]
    kept = [panel for panel in kept if panel.series]
    if not kept:
        raise UserError(f"likelihood_vs_updates: no run has the metric {metric}")
    found = [_points(panel, metric, options.published) for panel in kept]
    groups = max(len({_updates(point.series) for point in of_panel}) for of_panel in found)
    width = min(WIDEST, max(3.4, 1.2 + 0.7 * groups, 1.2 + 0.15 * max(map(len, found))))
    figure, axes = frame([panel.title for panel in kept], width=width, narrow=options.narrow)
    marked, doubts, doubt = dagger_notes([point.unreliable for of_panel in found for point in of_panel])
    for each, of_panel in zip(axes, found, strict=True):
        _panel(each, of_panel, marked, NARROW if options.narrow else width)
        each.set_xlabel("Updates, steps or flows T")
        each.set_ylabel(axis_label(metric))
    sources = {point.published.source: None for of in found for point in of if point.published}
    if options.published and not sources:
        raise UserError(f"--published: nothing that was published is a {metric} of these models and data")
    legend(figure, axes, narrow=options.narrow)
    numbers = [len(point.series.runs) for of_panel in found for point in of_panel]
    seeds = f"{description(metric)}: {of_seeds(numbers, ', with')}"
    figure.caption = ". ".join([seeds, *doubts, *literature(sources, metric)]) + "."
    figure.doubt = doubt
    return figure


def with_metrics(panel: Panel, metrics: Sequence[str], warn: Callable[[str], None]) -> Panel:
    """The panel with those of its runs that have the metrics."""
    kept = []
    for series in panel.series:
        runs = series.runs
        for metric in metrics:
            runs = tuple(with_metric(runs, metric))
        if len(runs) < len(series.runs):
            without = counted(len(series.runs) - len(runs), "run")
            warn(
                f"left out: {without} of {series.label}, {panel.title} (without the metric {' or '.join(metrics)})"
            )
        if runs:
            kept.append(Series(series.label, series.model, series.variant, runs))
    return Panel(panel.title, tuple(kept))


def unreliable(series: Series, metric: str) -> bool:
    """Whether the estimate of any run of the series is unreliable, so that a table marks the mean."""
    mark = reliability_of(metric)
    return mark is not None and any(run.value(mark) is True for run in series.runs)


def _points(panel: Panel, metric: str, beside: bool) -> list[_Point]:
    names = [_name(series) for series in panel.series]
    of_model: dict[str, list[str]] = {}
    for series, name in zip(panel.series, names, strict=True):
        if name not in of_model.setdefault(series.model, []):
            of_model[series.model].append(name)
    found = []
    for series, name in zip(panel.series, names, strict=True):
        mean, error = mean_and_error(np.array([float(run.value(metric)) for run in series.runs]))
        look = filling(of_model[series.model].index(name))
        known = published(series.runs[0], metric) if beside else None
        doubtful = unreliable(series, metric)
        found.append(_Point(series, name, look, float(mean), float(error), doubtful, known))
    return found


def _panel(axes: Axes, found: Sequence[_Point], marked: bool, inches: float) -> None:
    updates = sorted({_updates(point.series) for point in found}, key=lambda t: -1 if t is None else t)
    groups = [[point for point in found if _updates(point.series) == t] for t in updates]
    apart = WIDTH / max(map(len, groups))
    for position, group in enumerate(groups):
        for number, point in enumerate(group):
            x = position + (number - (len(group) - 1) / 2) * apart
            _draw(axes, point, x)
            if marked and point.unreliable:
                dagger(axes, x, point.mean)
    every = math.ceil(len(updates) / (LABELS_AN_INCH * inches))
    shown = range(0, len(updates), every)
    axes.set_xticks(shown, [NONE if updates[i] is None else str(updates[i]) for i in shown])
    axes.set_xlim(-0.6, len(updates) - 0.4)
    few_numbers(axes.yaxis)


def _draw(axes: Axes, point: _Point, x: float) -> None:
    style = point.series.style
    axes.errorbar(
        x,
        point.mean,
        point.error if np.isfinite(point.error) else None,
        color=style.color,
        marker=style.marker,
        fillstyle=point.filling,
        linestyle="none",
        linewidth=0.9,
        capsize=2,
        label=point.name,
    )
    if point.published:
        axes.plot(x, point.published.value, "D", color="black", mfc="white", label=PUBLISHED, zorder=4)


def _updates(series: Series) -> Any:
    return series.runs[0].value("T")


def _name(series: Series) -> str:
    parts = [part for part in series.label.split(", ") if not part.startswith("T = ")]
    return ", ".join(parts) or series.label


def axis_label(metric: str) -> str:
    what = what_and_estimator(metric)[0]
    return f"{NAMES[what]} ({UNIT})" if what in NAMES else metric


LIKELIHOOD_VS_UPDATES = PlotKind(
    shows="the test log-likelihood over the number of updates T, a point per model, mean and standard error over seeds",
    draw=points,
    of=lambda run: run.metrics is not None,
    lacking="no run is done",
    metric=True,
    published=True,
    by_updates=True,
)
