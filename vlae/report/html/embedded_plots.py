"""The figures of a report, as images that are a part of the page; what cannot be drawn is left out, with the reason."""

import base64
from typing import NamedTuple

from vlae.report.plots import registry
from vlae.report.plots.frame import Captioned
from vlae.report.runs import LeftOut, Runs

ELSEWHERE = ("curves",)
"""Kinds that the page has in another form."""
LOADED = 12
"""Models of which figures are drawn that load what was trained: each takes seconds."""
INCH = 96
"""Pixels of a browser."""
LARGEST = 1_000_000
"""Bytes of a drawing in SVG; a larger one becomes pixels."""


class Drawn(NamedTuple):
    """For an ``img``: an image of its own, whose names and styles are not the page's, and which executes nothing."""

    title: str
    uri: str
    width: int
    """Pixels, at which its letters are as large as they are on paper."""
    caption: str = ""


def drawn(runs: Runs, models: int) -> tuple[list[Drawn], list[LeftOut]]:
    """Everything that can be drawn of these runs, and what cannot be, with the reason."""
    found, left_out = [], []
    for kind, drawing in registry.KINDS.items():
        if kind in ELSEWHERE:
            continue
        if drawing.needs_models and models > LOADED:
            reason = f"{models} trained models would have to be loaded; vlae figure draws it of some of them"
            left_out.append(LeftOut(kind, reason))
            continue
        try:
            figure = registry.draw(kind, runs, narrow=True)
            width = round(INCH * figure.get_figwidth())
            found.append(Drawn(drawing.shows, _uri(figure), width, figure.caption))
        except Exception as error:  # whatever it is, the page is worth more than one figure
            left_out.append(LeftOut(kind, str(error) or type(error).__name__))
    return found, left_out


def _uri(figure: Captioned) -> str:
    svg = registry.written(figure, "svg")
    if len(svg) <= LARGEST:
        return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return f"data:image/png;base64,{base64.b64encode(registry.written(figure, 'png')).decode()}"
