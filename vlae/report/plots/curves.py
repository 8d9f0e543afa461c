"""Learning curves: the ELBO of the selection set over epochs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.metric_values import VALIDATION
from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind, mean_and_error, seeds_phrase
from vlae.report.runs import Run
from vlae.report.tables.captions import UNIT
from vlae.report.tables.groups import Configuration
from vlae.system.disk import RecordError

SELECTION = "trainer.selection"
FIRST = 0.1  # the share of first epochs that may lie below the frame, so that the others are no flat line


class _Curve(NamedTuple):
    series: Configuration
    epochs: np.ndarray
    of_seeds: np.ndarray  # [seeds, epochs]


def draw_curves(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """One line per series: the mean over seeds up to the last epoch of all, in a band of the standard error."""
    found = [(p, [c for series in p.series if (c := _curve(series, options.warn))]) for p in panels]
    found = [(panel, curves) for panel, curves in found if curves]
    if not found:
        raise UserError("curves: no run has finished an epoch yet")
    figure, axes = frame.subplots([panel.title for panel, _ in found], narrow=options.narrow)
    for each, (panel, own) in zip(axes, found, strict=True):
        for number, curve in enumerate(own):
            mean, error = mean_and_error(curve.of_seeds)
            every = max(1, len(mean) // 6)
            first = int(number / len(own) * every)  # so that the markers of several lines lie apart
            frame.line(each, curve.series, curve.epochs, mean, error, markevery=(first, every))
        each.set_xlabel("Epoch")
        each.set_ylabel(f"{_selection(panel)} ELBO ({UNIT}{_space(panel)})")
        _cut_off_the_beginning(each, own)
        frame.few_numbers(each.xaxis, whole=True)
        frame.few_numbers(each.yaxis)
        if max(curve.epochs[-1] for curve in own) == 1:  # else the frame would end at 0.95 and 1.05
            each.set_xlim(0.5, 1.5)
    frame.legend(figure, axes, narrow=options.narrow)
    names = " or ".join(dict.fromkeys(_selection(panel) for panel, _ in found))
    space = next((_space(panel) for panel, _ in found if _space(panel)), "")
    seeds = seeds_phrase([len(curve.of_seeds) for _, own in found for curve in own], "; bands:")
    figure.caption = f"{names} ELBO in {UNIT}{space} (higher is better) over epochs; {seeds}."
    return figure


def _curve(series: Configuration, warn: Callable[[str], None]) -> _Curve | None:
    """The curve of the runs that are done, or if none is, of all; None: there is no epoch."""
    done = [run for run in series.runs if run.state == "done"]
    by_run = [points for run in done or series.runs if (points := _elbo_by_epoch(run, warn))]
    if not by_run:
        return None
    common = sorted(set.intersection(*(set(points) for points in by_run)))
    of_seeds = np.array([[points[epoch] for epoch in common] for points in by_run])
    return _Curve(series, np.array(common), of_seeds)


def _elbo_by_epoch(run: Run, warn: Callable[[str], None]) -> dict[int, float]:
    """The ELBO of each epoch."""
    key = f"{run.settings.get(SELECTION, 'validation')}/elbo_nats"
    try:
        epochs = run.history() if run.history else {}
        points = {epoch: float(each[key]) for epoch, each in epochs.items() if each.get(key) is not None}
    except (RecordError, TypeError, ValueError) as error:
        warn(f"left out: {run.id} ({error})")
        return {}
    if cut := run.lacks_epochs(len(points)):
        warn(f"{run.id}: {cut}")
    return points


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
    """A note where the values of metrics.jsonl lack the Jacobian of the logit transform."""
    runs = [run.settings for series in panel.series for run in series.runs]
    transformed = [each for each in runs if each.get("dataset.logit_transform")]
    logit = any(each.get("output_dist.name") != "bernoulli" for each in transformed)
    return ", in model space" if logit else ""


CURVES = PlotKind(
    shows="the ELBO of the validation set over epochs, its mean over seeds and a band of the standard error",
    draw=draw_curves,
    of=lambda run: run.history is not None and run.state != "new",
    lacking="no run has been started",
    shown=VALIDATION,
)
