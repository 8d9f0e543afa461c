"""A metric of results.json against the time of training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.plots.frame import (
    Captioned,
    dagger,
    dagger_notes,
    few_numbers,
    frame,
    legend,
    logarithmic,
)
from vlae.report.plots.plot import Options, PlotKind
from vlae.report.plots.points import axis_label, unreliable, with_metrics
from vlae.report.plots.seeds import mean_and_error, of_seeds
from vlae.report.plots.series import Panel, Series
from vlae.report.tables.captions import description

SECONDS = "cost.train_seconds"
WIDE = 8.0
"""Seconds that differ by more than this factor are drawn on a logarithmic axis."""


def costs(panels: Sequence[Panel], options: Options) -> Captioned:
    """One marker per series at its means over seeds, with both standard errors; each run is a small marker."""
    metric = options.metric or ""
    kept = [with_metrics(panel, [metric, SECONDS], options.warn) for panel in panels]
    kept = [panel for panel in kept if panel.series]
    if not kept:
        raise UserError(f"cost: no run has the metrics {metric} and {SECONDS}")
    figure, axes = frame([panel.title for panel in kept], narrow=options.narrow)
    every = [series for panel in kept for series in panel.series]
    marked, doubts, doubt = dagger_notes([unreliable(series, metric) for series in every])
    for each, panel in zip(axes, kept, strict=True):
        for series in panel.series:
            x, y = _marker(each, series, metric)
            if marked and unreliable(series, metric):
                dagger(each, x, y)
        seconds = [run.value(SECONDS) for series in panel.series for run in series.runs]
        few_numbers(each.yaxis)
        if min(seconds) > 0 and max(seconds) > WIDE * min(seconds):
            logarithmic(each, min(seconds), max(seconds))
        else:
            few_numbers(each.xaxis)
            _keep_wide(each, min(seconds), max(seconds))
        each.set_xlabel("Training (seconds)")
        each.set_ylabel(axis_label(metric))
    legend(figure, axes, narrow=options.narrow)
    seeds = of_seeds([len(series.runs) for series in every], ", with")
    shown = "; small markers are single runs" if any(len(series.runs) > 1 for series in every) else ""
    figure.caption = (
        ". ".join(
            [
                f"{description(metric)}, against the training time in seconds: {seeds}{shown}",
                *doubts,
                "Times depend on the machine and on its load",
            ]
        )
        + "."
    )
    figure.doubt = doubt
    return figure


def _keep_wide(axes: Axes, lowest: float, highest: float) -> None:
    """An axis of at least 16 % of the seconds, so that almost equal times look equal."""
    if highest - lowest < 0.1 * highest:
        middle = (lowest + highest) / 2
        axes.set_xlim(0.92 * middle, 1.08 * middle)


def _marker(axes: Axes, series: Series, metric: str) -> tuple[float, float]:
    """Draws one series; the position of its marker."""
    points = np.array([[run.value(SECONDS), run.value(metric)] for run in series.runs], dtype=np.float64)
    (x, y), errors = mean_and_error(points)
    style = series.style
    several = len(points) > 1
    axes.errorbar(
        x,
        y,
        errors[1] if several else None,
        errors[0] if several else None,
        color=style.color,
        marker=style.marker,
        fillstyle=series.filling,
        markersize=6,
        linestyle="none",
        linewidth=0.9,
        label=series.label,
    )
    if several:
        axes.plot(*points.T, style.marker, color=style.color, alpha=0.4, markersize=2.5)
    return float(x), float(y)


COST = PlotKind(
    shows="the test log-likelihood against the training time, means and standard errors over seeds",
    draw=costs,
    of=lambda run: run.metrics is not None,
    lacking="no run is done",
    metric=True,
)
