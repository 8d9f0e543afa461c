"""A kind of figure: the runs that can be in it, its options, and the function that draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlae.report.plots.frame import Captioned
from vlae.report.plots.series import Panel
from vlae.report.runs import Run


@dataclass(frozen=True)
class Options:
    """The options of a figure."""

    metric: str | None
    """None where the kind shows no metric of results.json."""
    published: bool
    images: int
    samples: int | None
    """None: as many as the runs were evaluated with."""
    narrow: bool
    """Panels below each other, the legend below them: for a column of a paper, or a phone."""
    warn: Callable[[str], None]
    """Receives a line for each run that is left out, with the reason."""


@dataclass(frozen=True)
class PlotKind:
    """One kind of figure."""

    shows: str
    """One sentence."""
    draw: Callable[[Sequence[Panel], Options], Captioned]
    """UserError: nothing can be drawn."""
    of: Callable[[Run], bool]
    """Whether a run can be in it, as far as that is known without reading more files."""
    lacking: str
    """The reason where no run can be in it."""
    needs_models: bool = False
    """Whether it loads trained models and test images, which takes torch, and seconds."""
    metric: bool = False
    """Whether it has the option --metric; the next three likewise."""
    published: bool = False
    samples: bool = False
    images: int | None = None
    """The default number of test images; None: it has no such option."""
    by_updates: bool = False
    """Whether T always names a series."""
