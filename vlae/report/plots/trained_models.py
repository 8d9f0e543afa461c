"""The trained models of series: the only place where the report imports torch, inside a function."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlae.errors import UserError
from vlae.report.plots.plot import Panel
from vlae.report.runs import Run
from vlae.report.tables.groups import Configuration

if TYPE_CHECKING:
    from vlae.experiment.inspection import Inspection, Library

Models = list[tuple[Configuration, "Inspection"]]


def has_model(run: Run) -> bool:
    """True if the trained model of a run can be loaded."""
    return run.metrics is not None and run.directory is not None


LACKING = "no run that is done has its directory here"


def load_models(panels: Sequence[Panel], images: int, warn: Callable[[str], None]) -> Models:
    """The model of each series' first seed, all with the same test images.

    UserError: the series are of several data sets or were scored on other images, or no model can be read.
    """
    from vlae.experiment.inspection import Library

    if len(panels) > 1:
        names = "; ".join(panel.title for panel in panels)
        same = "--where: all models are shown with the same test images, but these runs are of"
        raise UserError(
            f"{same} {names}. Choose one, such as --where 'dataset=digits and output_dist=gaussian'"
        )
    library, problems = Library(), []
    read = [(series, _first(series, library, warn, problems)) for series in panels[0].series]
    found = [(series, model) for series, model in read if model is not None]
    if not found:
        raise UserError(f"no trained model of these runs can be read: {problems[0]}")
    first = found[0][1].pictures(images)
    if len(first) < images:
        warn(f"--images: {len(first)} test images are shown, not {images}: the models were scored on no more")
    for series, model in found[1:]:
        own = model.pictures(images)
        if not np.array_equal(own, first):
            names = f"{series.name} and {found[0][0].name}"
            text = f"--where: {names} were scored on other test images"
            raise UserError(f"{text}; choose runs with the same dataset settings")
    return found


def _first(
    series: Configuration, library: "Library", warn: Callable[[str], None], problems: list[str]
) -> "Inspection | None":
    """The model of the first seed that can be read; the errors of others go to ``warn`` and to ``problems``."""
    for run in series.runs:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = library.inspect(str(run.directory))
        except UserError as error:
            problems.append(str(error))
            warn(f"left out: {run.id} ({error})")
        else:
            for warning in caught:
                warn(str(warning.message))
            return model
    return None


def seeds_shown(models: Models) -> str:
    """A sentence for the caption: the seeds whose models are shown."""
    seeds = sorted({model.trained.config.seed for _, model in models})
    return f"Models of seed {', '.join(map(str, seeds))}"
