"""A figure of results.json over the number of updates, as bars: the paper's chart of its likelihoods."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlae.console import counted
from vlae.errors import UserError
from vlae.report.captions import NAMES, UNIT, described, literature
from vlae.report.cells import with_figure
from vlae.report.drawing.contract import Asked, Drawing
from vlae.report.drawing.frame import frame, legend, note
from vlae.report.drawing.seeds import mean_and_error, of_seeds
from vlae.report.drawing.series import Panel, Series
from vlae.report.figures import what_and_estimator
from vlae.report.published import Published, published

WIDTH = 0.85
"""Of the bars of one T together."""
PUBLISHED = "published"
NONE = "none"
"""Models without updates."""


class _Bar(NamedTuple):
    series: Series
    mean: float
    error: float
    published: Published | None

    def ends(self) -> list[float]:
        error = 0.0 if np.isnan(self.error) else self.error
        return [self.mean - error, self.mean + error, *([self.published.value] if self.published else [])]


def bars(panels: Sequence[Panel], asked: Asked) -> Figure:
    """A group of bars for each T, a bar a model; published figures as open diamonds."""
    metric = asked.metric or ""
    told = [with_figures(panel, [metric], asked.tell) for panel in panels]
    told = [panel for panel in told if panel.series]
    if not told:
        raise UserError(f"likelihood_vs_updates: no run has the figure {metric}")
    groups = [len({_updates(series) for series in panel.series}) for panel in told]
    figure, axes = frame([panel.title for panel in told], width=max(3.4, 1.2 + 0.7 * max(groups)))
    sources = {}
    for each, panel in zip(axes, told, strict=True):
        sources |= _bars(each, panel, metric, asked.published)
        each.set_xlabel("Updates, steps or flows T")
        each.set_ylabel(short(metric))
    if asked.published and not sources:
        raise UserError(f"--published: nothing that was published is a {metric} of these models and data")
    legend(figure, axes)
    note(figure, _said(told, metric, sources))
    return figure


def with_figures(panel: Panel, metrics: Sequence[str], tell: Callable[[str], None]) -> Panel:
    """Of its runs those that have them."""
    kept = []
    for series in panel.series:
        runs = series.runs
        for metric in metrics:
            runs = tuple(with_figure(runs, metric))
        if len(runs) < len(series.runs):
            without = counted(len(series.runs) - len(runs), "run")
            tell(
                f"left out: {without} of {series.label}, {panel.title} (without the figure {' or '.join(metrics)})"
            )
        if runs:
            kept.append(Series(series.label, series.model, series.variant, runs))
    return Panel(panel.title, tuple(kept))


def _bars(axes: Axes, panel: Panel, metric: str, beside: bool) -> dict[str, None]:
    """The sources of what was published."""
    updates = sorted({_updates(series) for series in panel.series}, key=lambda t: -1 if t is None else t)
    bars = [_bar(series, metric, beside) for series in panel.series]
    bottom, top = _limits(bars)
    groups = [[bar for bar in bars if _updates(bar.series) == t] for t in updates]
    width = WIDTH / max(map(len, groups))
    for position, group in enumerate(groups):
        for number, bar in enumerate(group):
            _draw(axes, bar, position + (number - (len(group) - 1) / 2) * width, width, bottom)
    axes.set_xticks(range(len(updates)), [NONE if t is None else str(t) for t in updates])
    axes.set_ylim(bottom, top)
    return {bar.published.source: None for bar in bars if bar.published}


def _limits(bars: Sequence[_Bar]) -> tuple[float, float]:
    """What is told, and some room: the bars stand on the lower one, so that a higher figure is a higher bar."""
    ends = [end for bar in bars for end in bar.ends()]
    room = 0.15 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _draw(axes: Axes, bar: _Bar, x: float, width: float, bottom: float) -> None:
    style, name = bar.series.style, _name(bar.series)
    look = {"color": style.color, "hatch": style.hatch, "edgecolor": "white", "linewidth": 0.3}
    look["alpha"] = max(0.3, 1 - 0.3 * bar.series.variant)  # paler for other settings of the same model
    axes.bar(x, bar.mean - bottom, width, bottom, label=name, **look)
    if np.isfinite(bar.error):
        axes.errorbar(x, bar.mean, bar.error, color="black", linewidth=0.8, capsize=2)
    if bar.published:
        axes.plot(x, bar.published.value, "D", color="black", mfc="white", label=PUBLISHED, zorder=4)


def _bar(series: Series, metric: str, beside: bool) -> _Bar:
    mean, error = mean_and_error(np.array([float(run.value(metric)) for run in series.runs]))
    return _Bar(series, float(mean), float(error), published(series.runs[0], metric) if beside else None)


def _updates(series: Series) -> Any:
    return series.runs[0].value("T")


def _name(series: Series) -> str:
    """Without T, which is the axis."""
    parts = [part for part in series.label.split(", ") if not part.startswith("T = ")]
    return ", ".join(parts) or series.label


def short(metric: str) -> str:
    """Of an axis."""
    what = what_and_estimator(metric)[0]
    return f"{NAMES[what]} ({UNIT})" if what in NAMES else metric


def _said(panels: Sequence[Panel], metric: str, sources: dict[str, None]) -> str:
    numbers = [len(series.runs) for panel in panels for series in panel.series]
    parts = [
        f"{described(metric)}; {of_seeds(numbers, ', with')}",
        "Bars do not begin at 0",
        *literature(sources, metric),
    ]
    return ". ".join(parts) + "."


LIKELIHOOD_VS_UPDATES = Drawing(
    shows="the test log-likelihood over the number of updates T, a bar a model, mean and standard error over seeds",
    draw=bars,
    of=lambda run: run.figures is not None,
    lacking="no run is done",
    metric=True,
    published=True,
    by_updates=True,
)
