"""Calibration of posteriors on images drawn from the trained models, whose true z is known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from vlae.errors import UserError
from vlae.report.plots import frame
from vlae.report.plots.plot import Options, Panel, PlotKind
from vlae.report.plots.style import GREY, style_of
from vlae.report.runs import Run
from vlae.report.tables.groups import Configuration
from vlae.system.console import count_of
from vlae.system.disk import RecordError

OWN, FITTED = "own", "fitted"
LOOKS: dict[str, dict[str, Any]] = {OWN: {"marker": "o"}, FITTED: {"marker": "none", "linewidth": 0.7}}
KNOWN = "test.bracket.calibration.fitted.coverage_50"
LEVEL = 0.95
DISTANCE = 1.358  # that of Kolmogorov and Smirnov at LEVEL, times the root of the number of values
GRID = np.linspace(0, 1, 201)
EVERY = 40  # points of the grid from marker to marker
BAND = f"{100 * LEVEL:g} % of exact posteriors"

Ranks = dict[str, tuple[Float[np.ndarray, " images"], Float[np.ndarray, " images"]]]
"""By posterior, masses and ranks as `vlae.estimation.calibration.Ranks` has them."""


class _Line(NamedTuple):
    series: Configuration
    seeds: int
    ranks: Ranks


def draw_calibration(panels: Sequence[Panel], options: Options) -> frame.Captioned:
    """For each panel the coverage of regions, and the ranks; one line per series and posterior, seeds together."""
    found = [(p.title, [line for s in p.series if (line := _line(s, options.warn))]) for p in panels]
    found = [(title, lines) for title, lines in found if lines]
    if not found:
        raise UserError("calibration: the ranks of no run can be read")
    titles = [f"{title}: {what}" for title, _ in found for what in ("regions", "ranks")]
    figure, axes = frame.subplots(titles, 2.9, 2.7, narrow=options.narrow, columns=2)
    for (_, lines), left, right in zip(found, axes[::2], axes[1::2], strict=True):
        images = min(len(mass) for line in lines for mass, _ in line.ranks.values())
        _draw_frames(left, right, images)
        for number, line in enumerate(lines):
            for posterior, (mass, rank) in line.ranks.items():
                look = _look(line.series, posterior, int((number + 0.5) / len(lines) * EVERY))
                left.plot(GRID, distribution(mass), **look)
                right.plot(GRID, distribution(rank) - GRID, **look)
        most = max(map(abs, right.get_ylim()))
        right.set_ylim(-most, most)
        frame.few_numbers(right.yaxis)
    legend = {line.series.name: frame.sample_of(**_sample(line.series)) for _, ls in found for line in ls}
    legend |= {f"{name}, each model": frame.sample_of(color=GREY, **look) for name, look in LOOKS.items()}
    legend[BAND] = Patch(color=GREY, alpha=0.2, linewidth=0)
    frame.legend_of(figure, legend, narrow=options.narrow)
    figure.caption = _caption([line for _, lines in found for line in lines])
    return figure


def _line(series: Configuration, warn: Callable[[str], None]) -> _Line | None:
    """The ranks of all seeds together; None: those of no seed can be read."""
    of_seeds = [ranks for run in series.runs if (ranks := _ranks(run, warn))]
    if not of_seeds:
        return None
    posteriors = [name for name in LOOKS if all(name in ranks for ranks in of_seeds)]
    pooled = {}
    for name in posteriors:
        masses, ranks = zip(*(each[name] for each in of_seeds), strict=True)
        pooled[name] = np.concatenate(masses), np.concatenate(ranks)
    return _Line(series, len(of_seeds), pooled)


def _ranks(run: Run, warn: Callable[[str], None]) -> Ranks:
    """The ranks of a run by the posteriors that have them; none where they cannot be read."""
    found: Ranks = {}
    read = run.per_image or (lambda name: None)
    try:
        for name in LOOKS:
            mass, rank = (read(f"calibration_{what}_{name}") for what in ("mass", "rank"))
            if mass is not None and rank is not None and np.isfinite([mass, rank]).all():
                found[name] = mass, rank
    except (RecordError, ValueError) as error:
        warn(f"left out: {run.id} ({error})")
        return {}
    if not found:
        warn(f"left out: {run.id} (test_log_likelihood.npz has no ranks)")
    return found


def distribution(values: Float[np.ndarray, " images"]) -> Float[np.ndarray, " points"]:
    """The share of the values that are at most as large as each point of GRID.

    >>> distribution(np.array([0.25, 0.75]))[[0, 50, 100, 200]]
    array([0. , 0.5, 0.5, 1. ])
    """
    return np.searchsorted(np.sort(values), GRID, side="right") / len(values)


def binomial_band(images: int) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Quantiles of the share of so many images that lie in regions of each mass of GRID, if these are exact.

    >>> low, high = binomial_band(100)
    >>> float(low[100]), float(high[100])
    (0.4, 0.6)
    """
    from scipy.special import bdtrik  # takes longer to import than a figure to draw

    inner, tail = GRID[1:-1], (1 - LEVEL) / 2
    low, high = (np.ceil(np.nan_to_num(bdtrik(q, images, inner))) / images for q in (tail, 1 - tail))
    return np.concatenate([[0.0], low, [1.0]]), np.concatenate([[0.0], high, [1.0]])


def _draw_frames(left: Axes, right: Axes, images: int) -> None:
    """The axes, and what exact posteriors would show in them."""
    band: Any = {"color": GREY, "alpha": 0.2, "linewidth": 0}
    left.fill_between(GRID, *binomial_band(images), **band)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    left.set_xlabel("Mass of the region")
    left.set_ylabel("Share of true z inside")
    distance = DISTANCE / np.sqrt(images)
    right.fill_between([0, 1], -distance, distance, **band)
    right.plot([0, 1], [0, 0], color=GREY, linewidth=0.8)
    right.set_xlabel("Rank of the true z")
    right.set_ylabel("Distribution minus uniform")
    for axes in (left, right):
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    left.set_ylim(-0.02, 1.02)
    for place, text, alignment in ((0.03, "too wide", "left"), (0.97, "too narrow", "right")):
        height = 0.93 if alignment == "left" else 0.03
        left.text(place, height, text, ha=alignment, color=GREY, style="italic")


def _sample(series: Configuration) -> dict[str, Any]:
    look = frame.look(series)
    del look["label"]
    return {**look, "linestyle": style_of(series.model).dashes}


def _look(series: Configuration, posterior: str, first: int) -> dict[str, Any]:
    """That of the model in all figures; without markers for the fitted proposal."""
    if posterior == OWN:
        return {**_sample(series), "markevery": (first, EVERY)}
    return {"color": style_of(series.model).color, **LOOKS[FITTED]}


def _caption(lines: Sequence[_Line]) -> str:
    images = sorted({len(mass) for line in lines for mass, _ in line.ranks.values()})
    number = count_of(images[0], "image") if len(images) == 1 else f"{images[0]} to {images[-1]} images"
    seeds = max(line.seeds for line in lines)
    pooled = f" ({count_of(seeds, 'seed')} together)" if seeds > 1 else ""
    return (
        f"Calibration on {number} drawn from each model{pooled}, whose true z is known. Regions: the share of the "
        "images whose true z lies in the region of highest density that holds this mass of the posterior; below the "
        "diagonal the posterior is too narrow. Ranks: the distribution of the rank of the true z along a random "
        "direction, minus the uniform one. Lines with markers: each model's own q(z | x); thin lines: the weighted "
        f"samples of the proposal fitted to p(z | x). Bands: {BAND}, of regions for each mass, of ranks for "
        "the whole line."
    )


CALIBRATION = PlotKind(
    shows="how often regions of q(z | x) hold the true z of images drawn from the model, and the ranks of this z",
    draw=draw_calibration,
    of=lambda run: run.number(KNOWN) is not None and run.per_image is not None,
    lacking="no run that is done has a calibration (evaluate.bracket.num_images)",
    shown=KNOWN,
)
