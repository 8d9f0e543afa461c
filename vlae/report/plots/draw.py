"""The function that draws a figure of runs, and the kinds that fit given runs."""

from collections.abc import Callable, Sequence
from typing import Any

from vlae.errors import UserError
from vlae.report.filter import choose_metric, choose_runs
from vlae.report.names import near
from vlae.report.plots.frame import Captioned, in_style
from vlae.report.plots.plot import Options, panels
from vlae.report.plots.registry import PLOTS
from vlae.report.runs import Runs
from vlae.report.tables.captions import provenance


def draw(
    kind: str,
    runs: Runs,
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    where: str = "",
    published: bool = False,
    images: int | None = None,
    samples: int | None = None,
    narrow: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> Captioned:
    """A figure of these runs.

    metric, rows, where: as for `vlae.report.tables.table.make_table`; published: with published values beside ours.
    images, samples: numbers of test images and of importance samples, in kinds that load trained models.
    narrow: for a column of a paper or a phone. warn: receives a line for each run that is left out.
    UserError: there is no such kind, or no run fits it; the error says the reason and the kinds that fit.
    """
    if kind not in PLOTS:
        raise UserError(f"KIND: expected one of {', '.join(PLOTS)}, got {kind!r}{near(kind, PLOTS)}")
    plot_kind = PLOTS[kind]
    _refuse_unused(kind, metric=metric, published=published, images=images, samples=samples)
    chosen = choose_runs(runs, where)
    chosen_metric = choose_metric(chosen, metric) if plot_kind.metric else None
    if shown := chosen_metric or plot_kind.shown:
        chosen = chosen.newest_complete(shown).scored_for(shown)
    fitting = chosen.only(plot_kind.of)
    if not fitting.runs:
        others = drawable(chosen)
        instead = f"these runs can be drawn as {', '.join(others)}" if others else "nothing else can be drawn"
        raise UserError(f"{kind}: {plot_kind.lacking}; {instead}")
    for left in chosen.left_out:
        warn(f"left out: {left}")
    drawn = panels(fitting, runs, rows, plot_kind.by_updates)
    with in_style():
        options = Options(chosen_metric, published, images or plot_kind.images or 0, samples, narrow, warn)
        figure = plot_kind.draw(drawn, options)
    figure.provenance = f"{chosen.title}, {kind}. {provenance(fitting.runs)}"
    return figure


def drawable(runs: Runs) -> list[str]:
    """The kinds that these runs can be drawn as, as far as that is known without reading more files."""
    return [kind for kind, plot_kind in PLOTS.items() if any(map(plot_kind.of, runs.runs))]


def _refuse_unused(kind: str, **options: Any) -> None:
    for option, value in options.items():
        means = [name for name, plot_kind in PLOTS.items() if getattr(plot_kind, option) not in (False, None)]
        if value not in (None, False) and kind not in means:
            raise UserError(f"--{option}: {kind} has none; it is for {', '.join(means) or 'no other kind'}")
