"""What a kind of figure is: what it can be drawn of, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlae.report.plots.frame import Captioned
from vlae.report.plots.series import Panel
from vlae.report.runs import Run


@dataclass(frozen=True)
class Asked:
    """What was asked for, besides the runs."""

    metric: str | None
    """None where the kind shows no figure of results.json."""
    published: bool
    images: int
    samples: int | None
    """None: as many as the runs were evaluated with."""
    narrow: bool
    """Panels below each other, the legend below them: for a column of a paper, or a phone."""
    tell: Callable[[str], None]
    """What a reader has to know and a figure has no room for: what was left out, and why."""


@dataclass(frozen=True)
class Drawing:
    """One kind."""

    shows: str
    """In one sentence."""
    draw: Callable[[Sequence[Panel], Asked], Captioned]
    """UserError: when all is looked at, nothing can be drawn."""
    of: Callable[[Run], bool]
    """Whether a run can be in it, as far as that is known without reading more of it."""
    lacking: str
    """Why nothing can be drawn where it can be of no run."""
    needs_models: bool = False
    """It loads trained models and test images, for which it takes torch, and seconds."""
    metric: bool = False
    """Whether --metric means something to it; so for the others."""
    published: bool = False
    samples: bool = False
    images: int | None = None
    """How many are shown by default; None: it shows none."""
    by_updates: bool = False
    """T always names a series."""
