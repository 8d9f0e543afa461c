"""Estimates of the log-likelihood over the number of samples, for each proposal."""

import itertools
import json
from collections.abc import Sequence

from matplotlib.artist import Artist

from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind
from vlae.report.plots.style import OTHER_PROPOSALS, PROPOSALS
from vlae.report.plots.trained_models import has_model, load_models, seeds_shown
from vlae.report.tables.captions import UNIT
from vlae.system.console import count_of

WIDTH = 2.6  # inches of a panel
PROPOSED, SAMPLED = "evaluate.proposals", "evaluate.num_samples"


def draw_estimates(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """One panel per model, one line per proposal, in a band of the Monte Carlo standard error."""
    models = load_models(panels, options.images, options.warn)
    figure, axes = frame.subplots([series.name for series, _ in models], WIDTH, 2.2, narrow=options.narrow)
    proposals: dict[str, Artist] = {}
    for each, (series, model) in zip(axes, models, strict=True):
        frame.heading(each, series, WIDTH)
        sizes = sample_sizes(options.samples or series.runs[0].settings[SAMPLED])
        for proposal in json.loads(series.runs[0].settings[PROPOSED]):
            mean, error = model.estimates(proposal, options.images, sizes)
            linestyle, fillstyle = PROPOSALS.get(proposal, OTHER_PROPOSALS)
            look = {"linestyle": linestyle, "fillstyle": fillstyle}
            proposals.setdefault(proposal, frame.sample_of(marker="o", **look))
            frame.line(each, series, sizes, mean, error, label=proposal, **look)
        frame.logarithmic(each, 1, sizes[-1])
        frame.few_numbers(each.yaxis)
        each.set_xlabel("Samples per image")
    for each in axes:
        if (place := each.get_subplotspec()) and place.is_first_col():
            each.set_ylabel(f"Log-likelihood ({UNIT})")
    frame.legend_of(figure, proposals, narrow=options.narrow)
    images = count_of(min(options.images, len(models[0][1].x)), "test image")
    figure.caption = (
        f"Importance-sampled log-likelihood in {UNIT} of the first {images}, {panels[0].title}, over the number of "
        "samples, with its Monte Carlo standard error. With too few samples both the estimate and this error are too "
        f"low. {seeds_shown(models)}."
    )
    return figure


def sample_sizes(most: int) -> list[int]:
    """Numbers of samples for a logarithmic axis, up to the most.

    >>> sample_sizes(30)
    [1, 2, 5, 10, 20, 30]
    """
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    return [*itertools.takewhile(lambda size: size < most, steps), most]


ESTIMATORS = PlotKind(
    shows="the estimated log-likelihood of a few test images over the number of samples, by each proposal",
    draw=draw_estimates,
    of=lambda run: has_model(run) and run.is_scored,
    lacking="no run that is done and scored has its directory here",
    images=20,
    samples=True,
)
