"""The figures of a report, as images inside the page."""

import base64
from typing import NamedTuple

from vlae.report.plots import registry
from vlae.report.plots.frame import Captioned
from vlae.report.runs import LeftOut, Runs

ELSEWHERE = ("curves",)
"""Kinds that the page shows in another form."""
LOADED = 12
"""Models, at most, for kinds that load trained models: each takes seconds."""
INCH = 96
"""Pixels per inch in a browser."""
LARGEST = 1_000_000
"""Bytes of an SVG; a larger one becomes a PNG."""


class EmbeddedPlot(NamedTuple):
    """A figure as an ``img``, which executes nothing and has styles of its own."""

    title: str
    uri: str
    width: int
    """Pixels, at which letters are as large as on paper."""
    caption: str = ""


def embed(runs: Runs, models: int) -> tuple[list[EmbeddedPlot], list[LeftOut]]:
    """All figures that can be drawn of these runs, and the kinds that cannot, with the reason."""
    found, left_out = [], []
    for kind, plot_kind in registry.KINDS.items():
        if kind in ELSEWHERE:
            continue
        if plot_kind.needs_models and models > LOADED:
            reason = f"{models} trained models are too many to load; vlae figure draws some of them"
            left_out.append(LeftOut(kind, reason))
            continue
        try:
            figure = registry.draw(kind, runs, narrow=True)
            width = round(INCH * figure.get_figwidth())
            found.append(EmbeddedPlot(plot_kind.shows, _uri(figure), width, figure.caption))
        except Exception as error:  # whatever it is, the page is worth more than one figure
            left_out.append(LeftOut(kind, str(error) or type(error).__name__))
    return found, left_out


def _uri(figure: Captioned) -> str:
    svg = registry.file_content(figure, "svg")
    if len(svg) <= LARGEST:
        return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return f"data:image/png;base64,{base64.b64encode(registry.file_content(figure, 'png')).decode()}"
