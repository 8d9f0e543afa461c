"""A metric of results.json against the time of training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind, mean_and_error, of_seeds
from vlae.report.plots.points import axis_label, unreliable, with_metrics
from vlae.report.plots.style import style_of
from vlae.report.tables.captions import description
from vlae.report.tables.groups import Configuration

SECONDS = "cost.train_seconds"
WIDE = 8.0  # seconds that differ by more than this factor are drawn on a logarithmic axis


def costs(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """One marker per series at its means over seeds, with both standard errors; each run is a small marker."""
    metric = options.metric or ""
    kept = with_metrics(panels, [metric, SECONDS], options.warn)
    figure, axes = frame.subplots([panel.title for panel in kept], narrow=options.narrow)
    every = [series for panel in kept for series in panel.series]
    marked, doubts, doubt = frame.dagger_notes([unreliable(series, metric) for series in every])
    for each, panel in zip(axes, kept, strict=True):
        for series in panel.series:
            x, y = _marker(each, series, metric)
            if marked and unreliable(series, metric):
                frame.dagger(each, x, y)
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
    seeds = of_seeds([len(series.runs) for series in every], ", with")
    shown = "; small markers are single runs" if any(len(series.runs) > 1 for series in every) else ""
    first = f"{description(metric)}, against the training time in seconds: {seeds}{shown}"
    figure.caption = ". ".join([first, *doubts, "Times depend on the machine and on its load"]) + "."
    figure.doubt = doubt
    return figure


def _marker(axes: Axes, series: Configuration, metric: str) -> tuple[float, float]:
    """Draws one series; the position of its marker."""
    points = np.array([[run.value(SECONDS), run.value(metric)] for run in series.runs], dtype=np.float64)
    (x, y), errors = mean_and_error(points)
    if len(points) == 1:
        frame.point(axes, series, x, y)
    else:
        frame.point(axes, series, x, y, xerr=errors[0], yerr=errors[1])
        color, marker, _ = style_of(series.model)
        axes.plot(*points.T, marker, color=color, alpha=0.4, markersize=2.5)
    return float(x), float(y)


COST = PlotKind(
    shows="the test log-likelihood against the training time, means and standard errors over seeds",
    draw=costs,
    metric=True,
)
