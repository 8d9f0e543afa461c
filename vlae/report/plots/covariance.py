"""Covariances of q(z | x) of each model, for the same test images, as in the paper's figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind
from vlae.report.plots.trained_models import LACKING, has_model, load_models, seeds_shown

INCHES = 1.25
COLORS = "cividis"  # its lightness rises with the value, so it reads the same in grey


def draw_covariances(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """A row per image, a column per model (narrow: transposed); each matrix on its own scale, symmetric around 0."""
    models = load_models(panels, options.images, options.warn)
    pictures = models[0][1].pictures(options.images)
    names, size = [series.name for series, _ in models], (len(pictures), len(models) + 1)
    figure, axes, inches = frame.image_grid(names, size, INCHES, tall=1.25, margin=0.6, narrow=options.narrow)
    for each in axes.ravel():
        frame.bare(each)
    for each, picture in zip(axes[:, 0], pictures, strict=True):
        each.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title("Test image")
    for column, (series, model) in zip(axes.T[1:], models, strict=True):
        frame.heading(column[0], series, inches)
        for each, matrix in zip(column, model.covariances(options.images), strict=True):
            top = np.abs(matrix).max()
            each.imshow(matrix, cmap=COLORS, vmin=-top, vmax=top)
            each.set_xlabel(f"max {top:.2g}", fontsize=6.5, labelpad=2)
    colors = ScalarMappable(Normalize(-1, 1), COLORS)
    bar = figure.colorbar(colors, ax=list(axes.ravel()), fraction=0.02, pad=0.01, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["−max", "0", "max"])
    figure.caption = (
        f"Covariance matrices of q(z | x), {panels[0].title}. {seeds_shown(models)}. Each matrix has its own scale, "
        "from minus its largest absolute entry, written below it, to plus that."
    )
    return figure


COVARIANCE = PlotKind(
    shows="the covariance matrices of q(z | x) of each model, for the same test images",
    draw=draw_covariances,
    of=has_model,
    lacking=LACKING,
    images=3,
)
