"""Reconstructions after each update of inference, and their error."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from vlae.errors import UserError
from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind, mean_and_error
from vlae.report.plots.trained_models import has_model, load_models, seeds_shown
from vlae.report.tables.groups import Configuration

INCHES = 0.45  # side of a picture
MEASURED = 100  # test images that the error is a mean over
LACKING = "no model whose inference takes updates (VLAE, SA-VAE) is done and has its directory here"
REFINED = ("model.num_updates", "model.num_steps")


def draw_updates(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """One strip per model: the test images, then their reconstructions after each update; beside them the error."""
    models = load_models(panels, options.images, options.warn)
    measured = [(series, model.refinements(max(MEASURED, options.images))) for series, model in models]
    found = [(series, updated) for series, updated in measured if updated is not None]
    if not found:
        raise UserError(f"updates: {LACKING}")
    pictures = models[0][1].pictures(options.images)
    most = max(len(updated.pictures) for _, updated in found)
    inches = min(INCHES, frame.NARROW / (most + 1)) if options.narrow else INCHES
    figure, strips, errors = _axes(found, most + 1, inches, len(pictures), options.narrow)
    for axes, (series, updated) in zip(strips, found, strict=True):
        tiles = np.concatenate([pictures[None], updated.pictures[:, : len(pictures)]])
        _strip(axes, series, tiles, most + 1, inches * (most + 1))
    for series, updated in found:
        frame.line(errors, series, np.arange(len(updated.errors)), *mean_and_error(updated.errors.T))
    errors.set_xlabel("Update")
    errors.set_ylabel("Mean squared error per pixel")
    frame.few_numbers(errors.xaxis, whole=True)
    frame.few_numbers(errors.yaxis)
    frame.legend(figure, [errors], narrow=options.narrow)
    images, shown = found[0][1].errors.shape[1], [series for series, _ in found]
    figure.caption = (
        f"E[x | μ] before the first update (0) and after each, {panels[0].title}; x: the test image. Curves: mean "
        f"squared error of pixels in [0, 1], mean of {images} test images, band: standard error over them. "
        f"{seeds_shown([each for each in models if each[0] in shown])}."
    )
    return figure


def _axes(
    found: Sequence[tuple[Configuration, object]], columns: int, inches: float, images: int, narrow: bool
) -> tuple[frame.Captioned, list[Axes], Axes]:
    """The figure, the axes of each strip, and those of the errors: beside the strips, or (narrow) below them."""
    names = max(frame.lines_of(frame.wrap(series.name, inches * columns) for series, _ in found))
    strip = inches * images + 0.35 + frame.INCHES_OF_A_LINE * names
    wide, rows = inches * columns + 0.4, len(found)
    if narrow:
        figure = frame.Captioned((frame.NARROW, strip * rows + 2.6), layout="constrained")
        grid = figure.add_gridspec(rows + 1, 1, height_ratios=[*[strip] * rows, 2.6])
    else:
        figure = frame.Captioned((wide + 3.5, max(2.6, strip * rows)), layout="constrained")
        grid = figure.add_gridspec(rows, 2, width_ratios=[wide, 3.0])
    strips = [figure.add_subplot(grid[row, 0]) for row in range(rows)]
    return figure, strips, figure.add_subplot(grid[-1, 0] if narrow else grid[:, 1])


def _strip(axes: Axes, series: Configuration, pictures: np.ndarray, columns: int, inches: float) -> None:
    """Draw the pictures [columns, images, height, width, ...] of one model, in axes as wide as ``columns`` pictures."""
    frame.bare(axes)
    axes.imshow(tile(pictures), cmap="gray", vmin=0, vmax=1)
    width = pictures.shape[3] + 1
    axes.set_xlim(-0.5, columns * width - 1.5)
    steps = ["x", *map(str, range(len(pictures) - 1))]
    axes.set_xticks([number * width + (width - 2) / 2 for number in range(len(steps))], steps)
    axes.tick_params(length=0)
    frame.heading(axes, series, inches, loc="left")


def tile(pictures: np.ndarray) -> np.ndarray:
    """One picture of all pictures [columns, rows, height, width, ...], a white pixel apart."""
    space = [(0, 0), (0, 0), (0, 1), (0, 1)] + [(0, 0)] * (pictures.ndim - 4)
    padded = np.pad(pictures, space, constant_values=1.0)
    columns, rows, height, width = padded.shape[:4]
    tiles = np.moveaxis(padded, 0, 2)  # [rows, height, columns, width, ...]
    return tiles.reshape(rows * height, columns * width, *padded.shape[4:])[:-1, :-1]


UPDATES = PlotKind(
    shows="reconstructions after each update of VLAE or SA-VAE beside the test images, and their error over updates",
    draw=draw_updates,
    of=lambda run: has_model(run) and any(run.settings.get(key) for key in REFINED),
    lacking=LACKING,
    images=3,
)
