"""A metric of results.json over the number of updates, and against the time of training, as points.

The first is the paper's chart of likelihoods, with points instead of bars. A bar would begin at an arbitrary value, and
its length would mean nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.metric_values import what_and_estimator
from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind, mean_and_error, seeds_phrase
from vlae.report.tables.captions import NAMES, UNIT, description
from vlae.report.tables.cells import is_unreliable, why_unreliable, with_metric
from vlae.report.tables.groups import Configuration
from vlae.report.tables.published import Published, published_value, source_notes

SECONDS = "cost.train_seconds"
WIDE = 8.0  # seconds that differ by more than this factor are drawn on a logarithmic axis
WIDTH = 0.7  # width of the points of one T together; 1 is the distance from one T to the next
WIDEST = 7.0  # inches: a panel as wide as a page
LABELS_AN_INCH = 3.0
PUBLISHED = "published"
NONE = "none"  # the label of models without updates


class _Point(NamedTuple):
    series: Configuration  # named without T, which is the axis
    updates: Any  # T
    mean: float
    error: float
    unreliable: bool
    published: Published | None


def draw_likelihoods(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """A group of points for each T, one point per model with its standard error; published values are open diamonds."""
    metric = options.metric or ""
    kept = with_metrics(panels, [metric], options.warn)
    found = [_points_of(panel, metric, options.published) for panel in kept]
    groups = max(len({each.updates for each in of_panel}) for of_panel in found)
    width = min(WIDEST, max(3.4, 1.2 + 0.7 * groups, 1.2 + 0.15 * max(map(len, found))))
    figure, axes = frame.subplots([panel.title for panel in kept], width=width, narrow=options.narrow)
    why = why_unreliable([run for each in kept for series in each.series for run in series.runs], metric)
    marked, doubts, doubt = frame.dagger_notes([each.unreliable for panel in found for each in panel], why)
    for each, of_panel in zip(axes, found, strict=True):
        _draw_points(each, of_panel, marked, frame.NARROW if options.narrow else width)
        each.set_xlabel("Updates, steps or flows T")
        each.set_ylabel(axis_label(metric))
    every = [each for of_panel in found for each in of_panel]
    sources = [each.published.source for each in every if each.published]
    frame.legend(figure, axes, narrow=options.narrow)
    seeds = f"{description(metric)}: {seeds_phrase([len(each.series.runs) for each in every], ', with')}"
    caveats = source_notes(sources, metric) if options.published else []
    figure.caption = ". ".join([seeds, *doubts, *caveats]) + "."
    figure.doubt = doubt
    return figure


def with_metrics(panels: Sequence[Panel], metrics: Sequence[str], warn: Callable[[str], None]) -> list[Panel]:
    """The panels with those of their runs that have the metrics. UserError: no run has them."""
    found, names = [], " and ".join(metrics)
    for panel in panels:
        kept = []
        for series in panel.series:
            runs = tuple(run for run in series.runs if all(with_metric([run], metric) for metric in metrics))
            if without := len(series.runs) - len(runs):
                of = f"{without} run{'s' if without > 1 else ''} of {series.name}, {panel.title}"
                warn(f"left out: {of} (without {names})")
            kept += [replace(series, runs=runs)] if runs else []
        found += [Panel(panel.title, tuple(kept))] if kept else []
    if not found:
        raise UserError(f"no run has {names}")
    return found


def unreliable(series: Configuration, metric: str) -> bool:
    """True if the estimate of any run of the series is unreliable, so that a table marks the mean."""
    return any(is_unreliable(run, metric) for run in series.runs)


def _points_of(panel: Panel, metric: str, beside: bool) -> list[_Point]:
    of_model: dict[str, list[str]] = {}
    found = []
    for series in panel.series:
        name = ", ".join(part for part in series.name.split(", ") if not part.startswith("T = "))
        names = of_model.setdefault(series.model, [])
        if name not in names:
            names.append(name)
        mean, error = mean_and_error(np.array([float(run.value(metric)) for run in series.runs]))
        first, named = series.runs[0], replace(series, name=name or series.name, variant=names.index(name))
        estimate = float(mean), float(error), unreliable(series, metric)
        known = published_value(first, metric) if beside else None
        found.append(_Point(named, first.value("T"), *estimate, known))
    return found


def _draw_points(axes: Axes, found: Sequence[_Point], marked: bool, inches: float) -> None:
    updates = sorted({each.updates for each in found}, key=lambda t: -1 if t is None else t)
    groups = [[each for each in found if each.updates == t] for t in updates]
    apart = WIDTH / max(map(len, groups))
    for position, group in enumerate(groups):
        for number, each in enumerate(group):
            x = position + (number - (len(group) - 1) / 2) * apart
            frame.point(axes, each.series, x, each.mean, yerr=each.error, dagger=marked and each.unreliable)
            if each.published:
                axes.plot(x, each.published.value, "D", color="black", mfc="white", label=PUBLISHED, zorder=4)
    every = math.ceil(len(updates) / (LABELS_AN_INCH * inches))
    shown = range(0, len(updates), every)
    axes.set_xticks(shown, [NONE if updates[i] is None else str(updates[i]) for i in shown])
    axes.set_xlim(-0.6, len(updates) - 0.4)
    frame.few_numbers(axes.yaxis)


def axis_label(metric: str) -> str:
    """The label of an axis of this metric, with its unit where it is a likelihood."""
    what = what_and_estimator(metric)[0]
    return f"{NAMES[what]} ({UNIT})" if what in NAMES else metric


def draw_costs(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """One marker per series at its means over seeds, with both standard errors; each run is a small marker."""
    metric = options.metric or ""
    kept = with_metrics(panels, [metric, SECONDS], options.warn)
    figure, axes = frame.subplots([panel.title for panel in kept], narrow=options.narrow)
    every = [series for panel in kept for series in panel.series]
    why = why_unreliable([run for series in every for run in series.runs], metric)
    marked, doubts, doubt = frame.dagger_notes([unreliable(series, metric) for series in every], why)
    for each, panel in zip(axes, kept, strict=True):
        for series in panel.series:
            of_runs = np.array([[run.value(SECONDS), run.value(metric)] for run in series.runs], np.float64)
            (x, y), (xerr, yerr) = mean_and_error(of_runs)
            daggered = marked and unreliable(series, metric)
            looks = frame.point(each, series, x, y, xerr=xerr, yerr=yerr, dagger=daggered)
            if len(of_runs) > 1:
                each.plot(*of_runs.T, looks["marker"], color=looks["color"], alpha=0.4, markersize=2.5)
        seconds = [run.value(SECONDS) for series in panel.series for run in series.runs]
        frame.few_numbers(each.yaxis)
        lowest, highest = min(seconds), max(seconds)
        if lowest > 0 and highest > WIDE * lowest:
            frame.logarithmic(each, lowest, highest)
        else:
            frame.few_numbers(each.xaxis)
            if highest - lowest < 0.1 * highest:  # almost equal times look equal
                each.set_xlim(0.46 * (lowest + highest), 0.54 * (lowest + highest))
        each.set_xlabel("Training (seconds)")
        each.set_ylabel(axis_label(metric))
    frame.legend(figure, axes, narrow=options.narrow)
    seeds = seeds_phrase([len(series.runs) for series in every], ", with")
    shown = "; small markers are single runs" if any(len(series.runs) > 1 for series in every) else ""
    first = f"{description(metric)}, against the training time in seconds: {seeds}{shown}"
    figure.caption = ". ".join([first, *doubts, "Times depend on the machine and on its load"]) + "."
    figure.doubt = doubt
    return figure


LIKELIHOOD_VS_UPDATES = PlotKind(
    shows="the test log-likelihood over the number of updates T, a point per model, mean and standard error over seeds",
    draw=draw_likelihoods,
    metric=True,
    published=True,
    by_updates=True,
)
COST = PlotKind(
    shows="the test log-likelihood against the training time, means and standard errors over seeds",
    draw=draw_costs,
    metric=True,
)
