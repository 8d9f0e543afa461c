"""The trained models of series: the one door from the report to torch, opened only when they are looked at."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlae.errors import UserError
from vlae.report.plots.series import Panel, Series
from vlae.report.runs import Run

if TYPE_CHECKING:
    from vlae.experiment.inspection import Inspection, Library

Opened = list[tuple[Series, "Inspection"]]


def has_model(run: Run) -> bool:
    return run.figures is not None and run.directory is not None


LACKING = "no run that is done has its directory here"


def opened(panels: Sequence[Panel], images: int, tell: Callable[[str], None]) -> Opened:
    """The model of each series' first seed, all with the same test images.

    UserError: the series are of several data sets or were scored on other images, or no model can be read.
    """
    from vlae.experiment.inspection import Library

    if len(panels) > 1:
        names = "; ".join(panel.title for panel in panels)
        raise UserError(
            f"--where: all models are shown with the same test images, but these runs are of {names}. Choose one, such "
            "as --where 'dataset=digits and output_dist=gaussian'"
        )
    library, problems = Library(), []
    read = [(series, _first(series, library, tell, problems)) for series in panels[0].series]
    found = [(series, model) for series, model in read if model is not None]
    if not found:
        raise UserError(f"no trained model of these runs can be read: {problems[0]}")
    first = found[0][1].pictures(images)
    if len(first) < images:
        tell(f"--images: {len(first)} test images are shown, not {images}: the models were scored on no more")
    for series, model in found[1:]:
        own = model.pictures(images)
        if own.shape != first.shape or not np.array_equal(own, first):
            raise UserError(
                f"--where: {series.label} and {found[0][0].label} were scored on other test images; choose runs with "
                "the same dataset settings"
            )
    return found


def _first(
    series: Series, library: "Library", tell: Callable[[str], None], problems: list[str]
) -> "Inspection | None":
    """Of the first seed whose model can be read; why others cannot is told, and added to the problems."""
    for run in series.runs:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = library.inspect(str(run.directory))
        except UserError as error:
            problems.append(str(error))
            tell(f"left out: {run.id} ({error})")
        else:
            for warning in caught:
                tell(str(warning.message))
            return model
    return None


def said_of(models: Opened) -> str:
    """Which seeds are shown."""
    seeds = sorted({model.trained.config.seed for _, model in models})
    return f"Models of seed {', '.join(map(str, seeds))}"
