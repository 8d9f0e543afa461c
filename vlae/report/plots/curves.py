"""Learning curves: the ELBO of the selection set over epochs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.plots.frame import Captioned, few_numbers, frame, legend, whole_numbers
from vlae.report.plots.plot import Asked, Drawing
from vlae.report.plots.seeds import mean_and_error, of_seeds
from vlae.report.plots.series import Panel, Series
from vlae.report.runs import NEVER, Run
from vlae.report.tables.captions import UNIT
from vlae.system.disk import RecordError

SELECTION = "trainer.selection"
FIRST = 0.1
"""Of the epochs, which may lie below the frame: in it the others would be a flat line."""


class _Curve(NamedTuple):
    series: Series
    epochs: np.ndarray
    of_seeds: np.ndarray
    """[seeds, epochs]"""


def curves(panels: Sequence[Panel], asked: Asked) -> Captioned:
    """A line a series, its mean over seeds, as far as all of them have come, in a band of the standard error."""
    found = [(panel, _curves(panel, asked.tell)) for panel in panels]
    found = [(panel, curves) for panel, curves in found if curves]
    if not found:
        raise UserError("curves: no run has finished an epoch yet")
    figure, axes = frame([panel.title for panel, _ in found], narrow=asked.narrow)
    for each, (panel, own) in zip(axes, found, strict=True):
        for number, curve in enumerate(own):
            _line(each, curve, number / len(own))
        each.set_xlabel("Epoch")
        each.set_ylabel(f"{_selection(panel)} ELBO ({UNIT}{_space(panel)})")
        _cut_off_the_beginning(each, own)
        whole_numbers(each.xaxis)
        few_numbers(each.yaxis)
        if max(curve.epochs[-1] for curve in own) == 1:  # else the frame would end at 0.95 and 1.05
            each.set_xlim(0.5, 1.5)
    legend(figure, axes, narrow=asked.narrow)
    names = " or ".join(dict.fromkeys(_selection(panel) for panel, _ in found))
    space = next((_space(panel) for panel, _ in found if _space(panel)), "")
    seeds = of_seeds([len(curve.of_seeds) for _, own in found for curve in own], "; bands:")
    figure.caption = f"{names} ELBO in {UNIT}{space} (higher is better) over epochs; {seeds}."
    return figure


def _curves(panel: Panel, tell: Callable[[str], None]) -> list[_Curve]:
    return [curve for series in panel.series if (curve := _curve(series, tell))]


def _curve(series: Series, tell: Callable[[str], None]) -> _Curve | None:
    """Of the runs that are done, or if none is of all that have begun; None: there is no epoch."""
    done = [run for run in series.runs if run.state == "done"]
    told = [points for run in done or series.runs if (points := _points(run, tell))]
    if not told:
        return None
    common = sorted(set.intersection(*(set(points) for points in told)))
    of_seeds = np.array([[points[epoch] for epoch in common] for points in told])
    return _Curve(series, np.array(common), of_seeds)


def _points(run: Run, tell: Callable[[str], None]) -> dict[int, float]:
    """By epoch."""
    key = f"{run.settings.get(SELECTION, 'validation')}/elbo_nats"
    try:
        lines = run.metrics() if run.metrics else []
        points = {int(line["epoch"]): float(line[key]) for line in lines if line.get(key) is not None}
    except (RecordError, LookupError, TypeError, ValueError) as error:
        tell(f"left out: {run.id} ({error})")
        return {}
    if cut := run.lacks_epochs(len(points)):
        tell(f"{run.id}: {cut}")
    return points


def _line(axes: Axes, curve: _Curve, offset: float) -> None:
    """offset: of its markers, so that those of several lines lie apart."""
    style, (mean, error) = curve.series.style, mean_and_error(curve.of_seeds)
    every = max(1, len(mean) // 6)
    axes.plot(
        curve.epochs,
        mean,
        color=style.color,
        linestyle=style.dashes,
        marker=style.marker,
        fillstyle=curve.series.filling,
        markevery=(int(offset * every), every),
        label=curve.series.label,
    )
    if len(curve.of_seeds) > 1:
        axes.fill_between(curve.epochs, mean - error, mean + error, color=style.color, alpha=0.2, linewidth=0)


def _cut_off_the_beginning(axes: Axes, curves: Sequence[_Curve]) -> None:
    last = max(curve.epochs[-1] for curve in curves)
    later = [curve.of_seeds[:, curve.epochs > FIRST * last] for curve in curves]
    values = np.concatenate([part.ravel() for part in later])
    low, high = values.min(), max(curve.of_seeds.max() for curve in curves)
    lowest = min(curve.of_seeds.min() for curve in curves)
    if high > low and lowest < low - (high - low):
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _selection(panel: Panel) -> str:
    names = {str(run.settings.get(SELECTION, "validation")) for series in panel.series for run in series.runs}
    return " or ".join(sorted(names)).capitalize()


def _space(panel: Panel) -> str:
    """What metrics.jsonl has lacks the Jacobian of the logit transform."""
    logit = any(
        run.settings.get("dataset.logit_transform") and run.settings.get("output_dist.name") != "bernoulli"
        for series in panel.series
        for run in series.runs
    )
    return ", in model space" if logit else ""


CURVES = Drawing(
    shows="the ELBO of the validation set over epochs, its mean over seeds and a band of the standard error",
    draw=curves,
    of=lambda run: run.metrics is not None and run.state not in (NEVER, "new"),
    lacking="no run has been started",
)
