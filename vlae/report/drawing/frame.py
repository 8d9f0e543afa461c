"""The frame of a figure: its panels side by side, one legend beside all of them, a note below."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlae.report.drawing.series import Series

Handle = Artist | Container
"""What a legend shows an example of."""
COLUMNS = 3
"""At most."""
LETTERS_AN_INCH = 17
"""Of the note and the legend."""
INCHES_OF_A_LINE = 0.16
"""Of the legend."""


def frame(titles: Sequence[str], width: float = 3.4, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A panel for each title, of so many inches."""
    rows = math.ceil(len(titles) / COLUMNS)
    columns = math.ceil(len(titles) / rows)
    figure = Figure((width * columns, height * rows + 0.3), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for each, title in zip(axes, titles, strict=True):
        each.set_title(title)
    return figure, axes


def legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """What any panel names, once, in the order of appearance."""
    named: dict[str, Handle] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    legend_of(figure, named)


def legend_of(figure: Figure, named: Mapping[str, Handle]) -> None:
    """Right of all panels, for which the figure becomes larger."""
    longest = max(map(len, named), default=0)
    figure.set_figwidth(figure.get_figwidth() + 0.75 + longest / LETTERS_AN_INCH)
    figure.set_figheight(max(figure.get_figheight(), len(named) * INCHES_OF_A_LINE + 0.5))
    handles: Any = list(named.values())  # the annotation of matplotlib knows no containers
    figure.legend(handles, list(named), loc="outside right upper", handlelength=3.5)


def sample_of(**look: Any) -> Artist:
    """A line in black, to name dashes or markers that several models have."""
    return Line2D([], [], **{"color": "black", **look})


def bare(axes: Axes) -> None:
    """Without ticks and borders: a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def heading(axes: Axes, series: Series, **look: Any) -> None:
    """The name of a series in its colour."""
    axes.set_title(series.label, color=series.style.color, fontweight="bold", **look)


def note(figure: Figure, text: str) -> None:
    """What the figures are, below all panels."""
    wide = int(figure.get_figwidth() * LETTERS_AN_INCH)
    figure.supxlabel(textwrap.fill(text, wide), fontsize=6.5, color="0.25")
