"""The figures of a report, as images that are a part of the page; what cannot be drawn is left out, with the reason."""

import base64
import importlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlae.report.collect import LeftOut, Runs

DRAWINGS = "vlae.report.drawings"
LARGEST = 1_000_000
"""Bytes of a drawing in SVG; a larger one becomes pixels."""


class Drawn(NamedTuple):
    """For an ``img``."""

    title: str
    uri: str


def drawn(runs: Runs) -> tuple[list[Drawn], list[LeftOut]]:
    """Everything that can be drawn of these runs, and what cannot."""
    try:
        drawings = importlib.import_module(DRAWINGS)
    except ImportError as error:
        return [], [LeftOut("figures", f"this installation draws none ({error})")]
    found, left_out = [], []
    for kind in drawings.KINDS:
        title = _title(drawings.KINDS, kind)
        try:
            found.append(Drawn(title, _uri(drawings.draw(kind, runs), kind)))
        except Exception as error:  # the page is worth more than one figure
            left_out.append(LeftOut(title, str(error) or type(error).__name__))
    return found, left_out


def _title(kinds: Any, kind: str) -> str:
    told = kinds[kind] if isinstance(kinds, Mapping) else None
    return told if isinstance(told, str) else kind.replace("_", " ")


def _uri(figure: Any, kind: str) -> str:
    """An image of its own: its names and styles are not those of the page, and nothing in it is executed."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": kind, "svg.fonttype": "path"}):
        svg = _saved(figure, format="svg", metadata={"Date": None, "Creator": None})
    if len(svg) <= LARGEST:
        return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    png = _saved(figure, format="png", dpi=150, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _saved(figure: Any, **keywords: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", facecolor="white", **keywords)
    return buffer.getvalue()
