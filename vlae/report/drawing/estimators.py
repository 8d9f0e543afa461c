"""Estimates of the log-likelihood by more and more samples, of each proposal."""

import itertools
import json
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from vlae.console import counted
from vlae.report.drawing.contract import Asked, Drawing
from vlae.report.drawing.frame import frame, heading, legend_of, note, sample_of
from vlae.report.drawing.models import LACKING, has_model, opened, said_of
from vlae.report.drawing.series import Panel
from vlae.report.drawing.style import PROPOSALS

PROPOSED, SAMPLED = "evaluate.proposals", "evaluate.num_samples"


def estimators(panels: Sequence[Panel], asked: Asked) -> Figure:
    """A panel a model, a line a proposal that it was evaluated by, in a band of the Monte Carlo standard error."""
    models = opened(panels, asked.images, asked.tell)
    figure, axes = frame([series.label for series, _ in models], width=2.6, height=2.2)
    proposals: dict[str, Artist] = {}
    for each, (series, model) in zip(axes, models, strict=True):
        heading(each, series)
        sizes = sample_sizes(asked.samples or series.runs[0].settings[SAMPLED])
        for proposal in json.loads(series.runs[0].settings[PROPOSED]):
            mean, error = model.estimates(proposal, asked.images, sizes)
            look = dict(zip(("linestyle", "fillstyle"), PROPOSALS[proposal], strict=True))
            proposals.setdefault(proposal, sample_of(marker="o", **look))
            color, marker = series.style.color, series.style.marker
            each.plot(sizes, mean, color=color, marker=marker, label=proposal, **look)
            each.fill_between(sizes, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
        each.set_xscale("log")
        each.set_xlabel("Samples an image")
    for each in axes:
        if (place := each.get_subplotspec()) and place.is_first_col():
            each.set_ylabel("Log-likelihood (nats an image)")
    legend_of(figure, proposals)
    images = counted(min(asked.images, len(models[0][1].x)), "test image")
    note(
        figure,
        f"Importance-sampled log-likelihood of the first {images}, {panels[0].title}, with the Monte Carlo standard "
        f"error. Too few samples estimate too low, the error as well. {said_of(models)}.",
    )
    return figure


def sample_sizes(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the most."""
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    return [*itertools.takewhile(lambda size: size < most, steps), most]


ESTIMATORS = Drawing(
    shows="the estimated log-likelihood of a few test images over the number of samples, by each proposal",
    draw=estimators,
    of=has_model,
    lacking=LACKING,
    needs_models=True,
    samples=True,
    images=20,
)
