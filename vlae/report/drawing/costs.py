"""A figure of results.json against what the training took."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlae.errors import UserError
from vlae.report.captions import described
from vlae.report.drawing.bars import short, with_figures
from vlae.report.drawing.contract import Asked, Drawing
from vlae.report.drawing.frame import frame, legend, note
from vlae.report.drawing.seeds import mean_and_error, of_seeds
from vlae.report.drawing.series import Panel, Series

SECONDS = "cost.train_seconds"
WIDE = 8.0
"""Seconds that differ by more than this factor are drawn on a logarithmic axis."""


def costs(panels: Sequence[Panel], asked: Asked) -> Figure:
    """A marker a series, its means over seeds with both standard errors; each run as a small one."""
    metric = asked.metric or ""
    told = [with_figures(panel, [metric, SECONDS], asked.tell) for panel in panels]
    told = [panel for panel in told if panel.series]
    if not told:
        raise UserError(f"cost: no run has the figures {metric} and {SECONDS}")
    figure, axes = frame([panel.title for panel in told])
    for each, panel in zip(axes, told, strict=True):
        for series in panel.series:
            _marker(each, series, metric)
        seconds = [run.value(SECONDS) for series in panel.series for run in series.runs]
        if min(seconds) > 0 and max(seconds) > WIDE * min(seconds):
            each.set_xscale("log")
        each.set_xlabel("Training (seconds)")
        each.set_ylabel(short(metric))
    legend(figure, axes)
    seeds = of_seeds([len(series.runs) for panel in told for series in panel.series], ", with")
    note(
        figure,
        f"{described(metric)}; {seeds}; small markers: each run. Seconds are those of the machines that the runs had, "
        "and of what else these did.",
    )
    return figure


def _marker(axes: Axes, series: Series, metric: str) -> None:
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


COST = Drawing(
    shows="the test log-likelihood against the seconds that the training took, means and standard errors over seeds",
    draw=costs,
    of=lambda run: run.figures is not None,
    lacking="no run is done",
    metric=True,
)
