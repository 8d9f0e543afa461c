"""A figure of results.json against what the training took."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.plots.frame import (
    Captioned,
    dagger,
    few_numbers,
    frame,
    legend,
    logarithmic,
    said_of_daggers,
)
from vlae.report.plots.plot import Asked, Drawing
from vlae.report.plots.points import short, unreliable, with_figures
from vlae.report.plots.seeds import mean_and_error, of_seeds
from vlae.report.plots.series import Panel, Series
from vlae.report.tables.captions import described

SECONDS = "cost.train_seconds"
WIDE = 8.0
"""Seconds that differ by more than this factor are drawn on a logarithmic axis."""


def costs(panels: Sequence[Panel], asked: Asked) -> Captioned:
    """A marker per series at its means over seeds, with both standard errors; each run as a small one."""
    metric = asked.metric or ""
    told = [with_figures(panel, [metric, SECONDS], asked.tell) for panel in panels]
    told = [panel for panel in told if panel.series]
    if not told:
        raise UserError(f"cost: no run has the metrics {metric} and {SECONDS}")
    figure, axes = frame([panel.title for panel in told], narrow=asked.narrow)
    every = [series for panel in told for series in panel.series]
    marked, doubts, doubt = said_of_daggers([unreliable(series, metric) for series in every])
    for each, panel in zip(axes, told, strict=True):
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
        each.set_ylabel(short(metric))
    legend(figure, axes, narrow=asked.narrow)
    seeds = of_seeds([len(series.runs) for series in every], ", with")
    shown = "; small markers: each run" if any(len(series.runs) > 1 for series in every) else ""
    figure.caption = (
        ". ".join(
            [
                f"{described(metric, brief=True)}, against the seconds of training; {seeds}{shown}",
                *doubts,
                "Seconds depend on the machine, and on what else it did",
            ]
        )
        + "."
    )
    figure.doubt = doubt
    return figure


def _keep_wide(axes: Axes, lowest: float, highest: float) -> None:
    """Seconds that are almost equal are shown so: the axis has at least 10 % of them."""
    if highest - lowest < 0.1 * highest:
        middle = (lowest + highest) / 2
        axes.set_xlim(0.92 * middle, 1.08 * middle)


def _marker(axes: Axes, series: Series, metric: str) -> tuple[float, float]:
    """Where the means are."""
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


COST = Drawing(
    shows="the test log-likelihood against the seconds that the training took, means and standard errors over seeds",
    draw=costs,
    of=lambda run: run.figures is not None,
    lacking="no run is done",
    metric=True,
)
