"""Searches for the mode in a latent space of two dimensions, on the contours of the log-posterior."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind
from vlae.report.plots.trained_models import has_model, load_models, seeds_shown
from vlae.report.tables.groups import Configuration

if TYPE_CHECKING:
    from vlae.experiment.inspection import Inspection, LatentPaths

INCHES = 2.0
FINE = 121  # points per side of the grid of contours
LEVELS = [-0.5 * 4.0**k for k in range(8, -1, -1)]
"""Nats below the highest point: those of a Gaussian at 1, 2, 4, ... standard deviations."""
DEVIATIONS = 4  # standard deviations of q in the frame, at least
Q, UPDATES, SEARCH = "q(z | x)", "updates", "search for the mode"
_SEARCHED = {"color": "black", "linestyle": (0, (1, 1.2)), "linewidth": 1.0}


def draw_searches(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """A row per image, a column per model; narrow: transposed."""
    models = load_models(panels, options.images, options.warn)
    rows, columns = min(options.images, len(models[0][1].x)), len(models)
    names = [series.name for series, _ in models]
    figure, axes, inches = frame.image_grid(names, (rows, columns), INCHES, margin=0.0, narrow=options.narrow)
    for of_model, (series, model) in zip(axes.T, models, strict=True):
        frame.heading(of_model[0], series, inches)
        for i, each in enumerate(of_model):
            _draw_paths(each, series, model, i)
            for axis in (each.xaxis, each.yaxis):
                frame.few_numbers(axis, 2 if options.narrow else 4)
    for i, of_image in enumerate(axes):
        name = of_image[-1].set_xlabel if options.narrow else of_image[0].set_ylabel
        name(f"Test image {i + 1}")
    samples = {
        Q: frame.sample_of(linewidth=0.9),
        UPDATES: frame.sample_of(marker="."),
        SEARCH: frame.sample_of(**_SEARCHED),
    }
    frame.legend_of(figure, samples, narrow=options.narrow)
    figure.caption = (
        "Contours: log p(z | x), 1, 2, 4, ... standard deviations of a Gaussian below its highest point; ellipse: q at "
        f"2 standard deviations; {SEARCH}: that of the Laplace proposal, from the model's own guess (○) to its end "
        f"(×). {panels[0].title}. {seeds_shown(models)}."
    )
    return figure


def _draw_paths(axes: Axes, series: Configuration, model: "Inspection", image: int) -> None:
    found, style = model.latent_paths(image), frame.look(series)
    around = np.concatenate([found.updates, found.search, _ellipse(found, DEVIATIONS)])
    middle, half = (around.min(0) + around.max(0)) / 2, 0.55 * np.ptp(around, axis=0).max()
    low, high = middle - half, middle + half  # a square around both paths and most of q
    x, y = (np.linspace(low[k], high[k], FINE) for k in range(2))
    points = np.stack(np.meshgrid(x, y), -1)
    value = model.log_joint(image)(points.reshape(-1, 2)).reshape(FINE, FINE)
    axes.contour(x, y, value - value.max(), LEVELS, colors="0.55", linewidths=0.6, linestyles="solid")
    axes.plot(*_ellipse(found, 2).T, color=style["color"], linewidth=0.9, label=Q)
    if len(found.updates):
        axes.plot(*found.updates.T, color=style["color"], marker=style["marker"], label=UPDATES)
    axes.plot(*found.search.T, **_SEARCHED, label=SEARCH)
    axes.plot(*found.search[0], "o", color="black", mfc="none", markersize=5)
    axes.plot(*found.search[-1], "x", color="black", markersize=5)
    axes.set_aspect("equal")
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


def _ellipse(found: "LatentPaths", deviations: float) -> np.ndarray:
    """Points at so many standard deviations of q."""
    angle = np.linspace(0, 2 * np.pi, 100)
    root = np.linalg.cholesky(found.covariance)
    return found.mean + deviations * np.stack([np.cos(angle), np.sin(angle)], -1) @ root.T


LATENT_PATH = PlotKind(
    shows="the paths of the updates and of the search for the mode on the contours of log p(z | x), in two dimensions",
    draw=draw_searches,
    of=lambda run: has_model(run) and run.settings.get("model.latent_dim") == 2,
    lacking="no run with model.latent_dim=2 is done and has its directory here",
    images=3,
)
