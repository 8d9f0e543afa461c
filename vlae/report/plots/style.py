"""The colour, marker and dashes of each model, the same in every figure.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; dashes and markers distinguish
lines and points in print without colours.
"""

import hashlib
from typing import NamedTuple

Dashes = tuple[int, tuple[float, ...] | None]  # an offset, and lengths on and off, as matplotlib takes them


class Style(NamedTuple):
    """The look of a model."""

    color: str
    marker: str
    dashes: Dashes


ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#666666"

STYLES: dict[str, Style] = {
    "vae": Style(GREY, "o", (0, (4, 1.5))),
    "fullcov": Style(SKY, "P", (0, (8, 2))),
    "savae": Style(ORANGE, "^", (0, (5, 1.5, 1, 1.5))),
    "savae_original": Style(ORANGE, "<", (0, (5, 1.5, 2.5, 1.5))),
    "hf": Style(GREEN, "v", (0, (1, 1.2))),
    "iaf": Style(PURPLE, "D", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
    "iaf_original": Style(PURPLE, "d", (0, (2.5, 1.5, 1, 1.5, 1, 1.5))),
    "vlae": Style(BLUE, "s", (0, None)),
    "vlae_newton": Style(VERMILION, "X", (0, (10, 1.5, 1, 1.5))),
}
_OTHER_COLORS = ("#000000", VERMILION, SKY, "#8C510A", "#5E3C99", "#01665E")
_ON_SCREEN = {
    **{GREY: "#8a8a8a", GREEN: "#1fa67a", PURPLE: "#d57fb0", BLUE: "#3b8ed0", VERMILION: "#dd6a33"},
    **{"#000000": "#8f7f66", "#8C510A": "#b07a3a", "#5E3C99": "#8f70c4", "#01665E": "#2b958b"},
}
_OTHER_MARKERS = ("*", "h", "8", ">", "p", "H")
_OTHER_DASHES: tuple[Dashes, ...] = ((0, (3, 3)), (0, (12, 2)), (0, (6, 2, 2, 2)), (0, (1, 3)))
FILLED = ("full", "none", "left", "right", "bottom", "top")
"""Markers of the same model with other settings, such as VLAE with T = 1, 2, 4, 8."""
PROPOSALS: dict[str, tuple[Dashes, str]] = {
    "own": ((0, None), "full"),
    "fitted": ((0, (8, 2)), "top"),
    "laplace": ((0, (4, 1.5)), "none"),
    "student_t": ((0, (1, 1.2)), "left"),
    "mixture": ((0, (5, 1.5, 1, 1.5)), "right"),
}
"""Dashes and filling of the markers, in figures where the lines of a model are its proposals."""
OTHER_PROPOSALS = (0, (3, 3)), "bottom"


def style_of(model: str) -> Style:
    """The style of a model; that of a user's own model follows from its name alone.

    >>> style_of("vlae").color
    '#0072B2'
    """
    if model in STYLES:
        return STYLES[model]
    digest = hashlib.sha256(model.encode()).digest()
    color = _OTHER_COLORS[digest[0] % len(_OTHER_COLORS)]
    marker = _OTHER_MARKERS[digest[1] % len(_OTHER_MARKERS)]
    return Style(color, marker, _OTHER_DASHES[digest[2] % len(_OTHER_DASHES)])


def on_screen(color: str) -> str:
    """The colour of a model on screens, visible on white and on black."""
    return _ON_SCREEN.get(color, color)
