"""The frame of a figure: its panels, their axes and marks, one legend for all, and the caption beside the picture."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vlae.estimation.reliability import MARK
from vlae.report.plots.style import FILLED, style_of
from vlae.report.tables.groups import Configuration

Handle = Artist | Container  # an entry of a legend
COLUMNS = 3  # panels side by side, at most
NARROW = 3.5  # inches: a column of a paper, or a phone, with letters as large as in the text around it
LETTERS_OF_A_HEADING = 12  # letters per inch of a heading
INCHES_OF_A_LINE = 0.16  # height of a line of a heading
LEGEND_LETTERS = 44  # a longer name has several lines
LEGEND_INCHES = 4.8  # a taller legend has several columns
TICKS = 5
DECADES = 2.0  # a logarithmic axis of fewer has labels at 1, 2, 5, 10, ..., a longer one at powers of ten
METADATA = {
    "pdf": ("CreationDate", "Subject", "Keywords"),
    "svg": ("Date", "Description", "Source"),
    "png": ("Software", "Description", "Source"),
}
"""By format the metadata that would differ in the next second, and those for the caption and the provenance."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Captioned(Figure):
    """A figure with its caption, which is no part of the picture: a paper, or a page, prints it below."""

    caption: str = ""
    doubt: str = ""  # for the caption of a figure that stands alone; a page says it once, of its table
    provenance: str = ""  # the runs in the figure, and the code that made them

    @property
    def full_caption(self) -> str:
        """The caption with the doubt."""
        return " ".join(filter(None, [self.caption, self.doubt]))


def in_style() -> Any:
    """The context in which figures are drawn and written: whatever a user has set, they look the same."""
    return style.context(["default", Path(__file__).with_name("figures.mplstyle")])


def file_content(figure: Captioned, suffix: str) -> bytes:
    """The bytes of a ``pdf``, ``svg`` or ``png`` with the caption in its metadata: always the same for a figure."""
    buffer = BytesIO()
    values = None, figure.full_caption, figure.provenance
    with in_style():
        figure.draw_without_rendering()  # sizes of axes follow from their labels, and these from the sizes
        figure.savefig(buffer, format=suffix, metadata=dict(zip(METADATA[suffix], values, strict=True)))
    return buffer.getvalue()


def subplots(
    titles: Sequence[str],
    width: float = 3.4,
    height: float = 2.6,
    *,
    narrow: bool = False,
    columns: int = COLUMNS,
) -> tuple[Captioned, list[Axes]]:
    """A panel of so many inches for each title. narrow: below each other, within NARROW inches.

    columns: the most panels side by side.
    """
    rows = len(titles) if narrow else math.ceil(len(titles) / columns)
    columns = math.ceil(len(titles) / rows)
    width = NARROW if narrow else width
    texts = [wrap(title, width) for title in titles]
    height += INCHES_OF_A_LINE * max(lines_of(texts)) + (0.0 if narrow else 0.15)
    figure = Captioned((width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for each, text in zip(axes, texts, strict=True):
        each.set_title(text)
    return figure, axes


def image_grid(
    names: Iterable[str],
    shape: tuple[int, int],
    inches: float,
    *,
    tall: float = 1.0,
    margin: float,
    narrow: bool,
) -> tuple[Captioned, np.ndarray, float]:
    """Axes for images, of this shape [rows, columns], and their width; narrow: drawn transposed, within NARROW inches.

    names: the headings of columns. inches: the width of a cell, whose height is ``tall`` times that.
    """
    rows, columns = shape
    inches = (NARROW - margin) / rows if narrow else inches
    headings = INCHES_OF_A_LINE * max(lines_of(wrap(name, inches) for name in names))
    if narrow:
        figure = Captioned((NARROW, (tall * inches + headings) * columns + 0.3), layout="constrained")
        return figure, figure.subplots(columns, rows, squeeze=False).T, inches
    size = inches * columns + margin + 0.3, tall * inches * rows + headings + 0.3
    figure = Captioned(size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False), inches


def look(series: Configuration) -> dict[str, Any]:
    """The colour and the markers of a configuration, and its name for the legend."""
    color, marker, _ = style_of(series.model)
    filling = FILLED[series.variant % len(FILLED)]
    return {"color": color, "marker": marker, "fillstyle": filling, "label": series.name}


def line(axes: Axes, series: Configuration, x: Any, y: np.ndarray, error: np.ndarray, **other: Any) -> None:
    """A line in a band of its error, where that is known."""
    looks = {"linestyle": style_of(series.model).dashes, **look(series), **other}
    axes.plot(x, y, **looks)
    if np.isfinite(error).any():
        axes.fill_between(x, y - error, y + error, color=looks["color"], alpha=0.2, linewidth=0)


def point(
    axes: Axes, series: Configuration, x: float, y: float, *, dagger: bool, **errors: float
) -> dict[str, Any]:
    """A marker with those of its error bars that are known; dagger: marked as unreliable, as in a table. Its looks."""
    looks = look(series)
    known: Any = {name: error for name, error in errors.items() if np.isfinite(error)}
    axes.errorbar(x, y, **looks, linestyle="none", linewidth=0.9, capsize=2, **known)
    if dagger:
        axes.annotate(MARK, (x, y), xytext=(4, 2), textcoords="offset points", fontsize=7)
    return looks


def legend(figure: Figure, axes: Iterable[Axes], *, narrow: bool = False) -> None:
    """The legend of all panels: each name once, in the order of appearance."""
    named: dict[str, Handle] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    legend_of(figure, named, narrow=narrow)


def legend_of(figure: Figure, named: Mapping[str, Handle], *, narrow: bool = False) -> None:
    """A legend right of all panels, or (narrow) below them; the figure is enlarged for it."""
    names = [textwrap.fill(name, LEGEND_LETTERS) for name in named]
    handles: Any = list(named.values())  # the annotation of matplotlib knows no containers
    place = "outside lower center" if narrow else "outside right upper"

    def make_legend(columns: int) -> tuple[Legend, float, float]:
        made = figure.legend(handles, names, loc=place, ncols=columns, handlelength=3.5)
        box = made.get_window_extent()
        return made, box.width / figure.dpi, box.height / figure.dpi

    made, width, height = make_legend(1)  # 0.2 inches apart where there are several columns
    columns = min(len(names), int(NARROW / (width + 0.2))) if narrow else math.ceil(height / LEGEND_INCHES)
    if columns > 1:
        made.remove()
        _, width, height = make_legend(columns)
    size = figure.get_size_inches() + ((0, height + 0.1) if narrow else (width + 0.1, 0))
    figure.set_size_inches(size[0], size[1] if narrow else max(size[1], height + 0.2))


def sample_of(**look: Any) -> Artist:
    """A black line for the legend, for dashes or markers that several models share."""
    return Line2D([], [], **{"color": "black", **look})


def bare(axes: Axes) -> None:
    """Remove ticks and borders: the axes hold a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def heading(axes: Axes, series: Configuration, width: float, **look: Any) -> None:
    """The name of a configuration in its colour, in lines of so many inches."""
    axes.set_title(wrap(series.name, width), color=style_of(series.model).color, fontweight="bold", **look)


def wrap(text: str, width: float) -> str:
    """A heading in lines of so many inches."""
    return textwrap.fill(text, max(4, int(width * LETTERS_OF_A_HEADING)))


def lines_of(texts: Iterable[str]) -> list[int]:
    """The number of lines of each text."""
    return [text.count("\n") + 1 for text in texts]


def few_numbers(axis: Axis, most: int = TICKS, *, whole: bool = False) -> None:
    """Set few ticks, so that long numbers do not touch. whole: for epochs and updates, which have no fractions."""
    options: dict[str, Any] = {"integer": True, "min_n_ticks": 1} if whole else {"steps": [1, 2, 5, 10]}
    axis.set_major_locator(MaxNLocator(most, **options))


def logarithmic(axes: Axes, lowest: float, highest: float) -> None:
    """The x axis, for values from ``lowest`` to ``highest``: few labels, and none of minor ticks."""
    axes.set_xscale("log")
    short = math.log10(highest / lowest) < DECADES
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=2 * TICKS))
    axes.xaxis.set_major_formatter("{x:g}" if short else _power_of_ten)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _power_of_ten(value: float, _: float) -> str:
    """The label of a tick: ``0.1``, ``1``, ``10``, ``10³``."""
    exponent = round(math.log10(value))
    return f"{value:g}" if -2 <= exponent <= 2 else "10" + str(exponent).translate(_RAISED)


def dagger_notes(unreliable: Sequence[bool], why: str) -> tuple[bool, list[str], str]:
    """Three values: True if points get daggers, sentences for the caption, and the doubt. why: the reason of daggers.

    As in a table: if all of several estimates are unreliable, one sentence says so instead of daggers.
    """
    if not any(unreliable):
        return False, [], ""
    if all(unreliable) and len(unreliable) > 1:
        return False, [], f"All estimates are unreliable ({why})."
    return True, [f"{MARK} unreliable estimate ({why})"], ""
