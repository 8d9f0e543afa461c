"""Figures of runs: they show the data of the runs, a model looks the same everywhere, and bytes are the same."""

import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from programs import need
from recorded import container, done, stopped

import vlae
from vlae.cli.commands.figure import FORMATS
from vlae.distributions.laplace import find_modes
from vlae.errors import UserError
from vlae.estimation.estimators.importance import evaluate
from vlae.estimation.reliability import MARK
from vlae.experiment.inspection import Library
from vlae.report.plots.calibration import GRID, binomial_band
from vlae.report.plots.draw import draw, drawable
from vlae.report.plots.estimators import sample_sizes
from vlae.report.plots.frame import METADATA, NARROW, file_content
from vlae.report.plots.registry import PLOTS
from vlae.report.plots.style import GREY, STYLES, style_of
from vlae.report.plots.updates import tile
from vlae.report.runs import Run, Runs
from vlae.report.sources.run_directories import collect_runs
from vlae.report.tables.formats import tex
from vlae.report.tables.published import published_value

VAE, VLAE, HF, SAVAE = "model=vae", "model=vlae", "model=hf", "model=savae"
OWN, FITTED = "test.log_likelihood.own.mean", "test.log_likelihood.fitted.mean"
CALIBRATED = "test.bracket.calibration.fitted.coverage_50"
UNRELIABLE = "test.log_likelihood.fitted.unreliable"
RECORDED = [kind for kind, plot_kind in PLOTS.items() if not plot_kind.images]
OF_MODELS = [kind for kind, plot_kind in PLOTS.items() if plot_kind.images]


def runs_of(runs_dir, name=None):
    return collect_runs(name, runs_dir)


def learned(path: Path, elbos, key="validation/elbo_nats"):
    """The run with a metrics.jsonl of these ELBOs."""
    lines = [json.dumps({"epoch": epoch, key: elbo}) for epoch, elbo in enumerate(elbos, 1)]
    (path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return path


def some_runs(runs_dir, seeds=3):
    """Runs of three models, each with a curve of its own."""
    for number, model in enumerate((VAE, HF, VLAE)):
        for seed in range(seeds):
            path = done(runs_dir, container(model, seed=seed), level=number + seed**2)
            learned(path, [-50.0 / epoch + number - 0.3 * seed for epoch in range(1, 13)])
            calibrate(path, **ranks(10 * number + seed))


def lines(axes):
    """The lines by label."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def points(axes):
    """The label and the marker of each point with an error bar."""
    return [(c.get_label(), c.lines[0]) for c in axes.containers if isinstance(c, ErrorbarContainer)]


def texts(figure):
    """(tick labels of each axis, other texts) that can be seen, each a text and its box, and the box of the canvas."""
    figure.draw_without_rendering()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, ticks, others = canvas.get_renderer(), [], []
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    labels = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        shown = [
            tick for tick in axis.get_major_ticks() + axis.get_minor_ticks() if low <= tick.get_loc() <= high
        ]
        found = [tick.label1 for tick in shown if tick.label1.get_visible() and tick.label1.get_text()]
        ticks.append([(label.get_text(), label.get_window_extent(renderer)) for label in found])
    for text in figure.findobj(Text):
        if text not in labels and text.get_visible() and text.get_text().strip():
            others.append((text.get_text(), text.get_window_extent(renderer)))
    return ticks, others, figure.bbox


def faults(figure):
    """Texts that overlap (but for daggers, which stand beside points), or leave the canvas."""
    ticks, others, canvas = texts(figure)
    shown = [*(label for axis in ticks for label in axis), *others]
    found = [
        f"outside: {text}"
        for text, box in shown
        if min(box.x0, box.y0) < -0.5 or box.x1 > canvas.x1 + 0.5 or box.y1 > canvas.y1 + 0.5
    ]
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        if MARK not in (one, other) and a.padded(-0.5).overlaps(b.padded(-0.5)):
            found.append(f"overlap: {one} and {other}")
    return found


def made_up(model, y, seconds=3.0, seed=0, unreliable=False, epochs=5, **settings):
    """A run without a directory: a metric, the seconds that it took, and a curve."""
    lines = {epoch: {"validation/elbo_nats": y - 5 / epoch} for epoch in range(1, epochs + 1)}
    values = {"model.name": model, "seed": seed, "dataset.name": "digits", "output_dist.name": "gaussian"}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    known = {FITTED: y, "cost.train_seconds": seconds, UNRELIABLE: unreliable, CALIBRATED: 0.5}
    return Run(f"{model}{values}", "", values, "done", "", known, ranks(seed).get, lambda: lines)


def ranks(seed=0, images=100, power=1.0):
    """The arrays of a calibration: of the fitted proposal uniform, of the model's own q raised to a power."""
    uniform = np.random.default_rng(seed).random((4, images))
    own, fitted = uniform[:2] ** (1 / power), uniform[2:]
    names = [f"calibration_{what}_{by}" for by in ("own", "fitted") for what in ("mass", "rank")]
    return dict(zip(names, (*own, *fitted), strict=True))


def calibrate(path: Path, **arrays):
    """Give a recorded run a calibration with these arrays."""
    file = path / "test_log_likelihood.npz"
    np.savez(file, **np.load(file), **arrays)
    results = json.loads((path / "results.json").read_text())
    results["test"]["bracket"] = {"calibration": {"fitted": {"coverage_50": 0.5}}}
    (path / "results.json").write_text(json.dumps(results))


def look(artist):
    """The properties of a line that distinguish models."""
    offset, dashes = artist._unscaled_dash_pattern
    return to_hex(artist.get_color()).upper(), artist.get_marker(), (offset, dashes)


@pytest.fixture
def figure_command(command, tmp_path):
    """``vlae figure <words>``"""
    return lambda *words, runs_dir=tmp_path: command("figure", *words, "--runs-dir", runs_dir)


# --- looks ------------------------------------------------------------------------------------------------------------


def test_models_differ_in_colour_or_marker_and_in_dashes():
    styles = list(STYLES.values())
    assert len({(style.color, style.marker) for style in styles}) == len(styles)
    assert len({style.dashes for style in styles}) == len(styles)


@given(st.text(), st.lists(st.text()))
def test_the_style_of_a_model_follows_from_its_name(name, others):
    before = style_of(name)
    for other in others:
        style_of(other)
    assert style_of(name) == before
    assert to_rgb(before.color)


@pytest.mark.slow
@pytest.mark.parametrize("models", [(VAE, VLAE), (VLAE,), (HF, SAVAE, VLAE)])
def test_the_style_of_a_model_ignores_other_models(tmp_path, models):
    for model in models:
        learned(done(tmp_path, container(model)), [-3.0, -2.0])
    runs = runs_of(tmp_path)
    line = lines(draw("curves", runs).axes[0])["VLAE"]
    style = STYLES["vlae"]
    assert look(line) == (style.color, style.marker, style.dashes)
    for kind in ("likelihood_vs_updates", "cost"):
        marker = dict(points(draw(kind, runs).axes[0]))["VLAE"]
        assert look(marker)[:2] == (style.color, style.marker)


@pytest.mark.slow
def test_settings_of_a_model_share_colour_and_differ_in_marker(tmp_path):
    for updates in (1, 2, 4):
        learned(done(tmp_path, container(VLAE, f"model.num_updates={updates}")), [-3.0, -2.0])
    found = lines(draw("curves", runs_of(tmp_path)).axes[0])
    assert list(found) == ["VLAE, T = 1", "VLAE, T = 2", "VLAE, T = 4"]
    assert len({look(line) for line in found.values()}) == 1
    assert len({line.get_fillstyle() for line in found.values()}) == 3


@pytest.mark.slow
def test_settings_of_a_model_differ_in_fill_except_t(tmp_path):
    for lr in ("1e-3", "1e-4"):
        for updates in (1, 2):
            done(tmp_path, container(VLAE, f"optimizer.lr={lr}", f"model.num_updates={updates}"))
    found = points(draw("likelihood_vs_updates", runs_of(tmp_path)).axes[0])
    assert len(found) == 4
    assert len({look(marker)[:2] for _, marker in found}) == 1
    looks = {(name, marker.get_fillstyle()) for name, marker in found}
    assert looks == {("VLAE, optimizer.lr = 0.0001", "full"), ("VLAE, optimizer.lr = 0.001", "none")}


def test_names_are_text_not_formulas(tmp_path):
    names = ["$x", "a$b$c", r"$\frac$", "vae"]
    runs = [
        Run(name, "", {"model.name": name, "seed": 0}, "done", "", {FITTED: -1.0, "cost.train_seconds": 1.0})
        for name in names
    ]
    figure = draw("cost", Runs("", tuple(runs)))
    assert file_content(figure, "svg")
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(shown) == sorted([*names[:3], "VAE"])


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_curve_is_a_mean_in_a_band_of_its_standard_error(tmp_path):
    some_runs(tmp_path)
    axes = draw("curves", runs_of(tmp_path)).axes[0]
    found = lines(axes)
    assert list(found) == ["VAE", "HF", "VLAE"]
    bands = dict(zip(found, axes.collections, strict=True))
    for name, line in found.items():
        files = tmp_path.glob(f"{name.lower()}-*/metrics.jsonl")
        series = [
            [json.loads(text)["validation/elbo_nats"] for text in file.read_text().splitlines()]
            for file in files
        ]
        for epoch, values in enumerate(zip(*series, strict=True), 1):
            mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(3)
            assert line.get_xydata()[epoch - 1] == pytest.approx([epoch, mean])
            edge = [y for x, y in bands[name].get_paths()[0].vertices if x == epoch]
            assert (min(edge), max(edge)) == pytest.approx((mean - error, mean + error))


def test_a_single_seed_has_no_band(tmp_path):
    learned(done(tmp_path, container(VAE)), [-3.0, -2.0])
    figure = draw("curves", runs_of(tmp_path))
    assert not figure.axes[0].collections
    assert "one seed each" in figure.caption


def test_a_curve_that_lacks_epochs_is_reported(tmp_path):
    path = learned(done(tmp_path, container(VAE)), [-3.0, -2.0, -1.0])  # of 4
    said = []
    draw("curves", runs_of(tmp_path), warn=said.append)
    assert said == [f"{path.name}: metrics.jsonl has 3 of 4 epochs, so its curve is cut"]


def test_a_curve_ends_where_its_first_seed_does(tmp_path):
    for seed, epochs in ((0, 3), (1, 5)):
        learned(done(tmp_path, container(VAE, seed=seed)), [-float(epoch) for epoch in range(epochs)])
    assert list(lines(draw("curves", runs_of(tmp_path)).axes[0])["VAE"].get_xdata()) == [1, 2, 3]


def test_running_seeds_are_drawn_until_one_is_done(tmp_path):
    learned(stopped(tmp_path, container(VAE, seed=0), state="failed", reason="exception"), [-3.0])
    assert list(lines(draw("curves", runs_of(tmp_path)).axes[0])["VAE"].get_ydata()) == [-3.0]
    learned(done(tmp_path, container(VAE, seed=1)), [-5.0, -4.0])
    assert list(lines(draw("curves", runs_of(tmp_path)).axes[0])["VAE"].get_ydata()) == [-5.0, -4.0]


def test_curves_show_the_selection_set(tmp_path):
    path = done(tmp_path, container(VAE, "trainer.selection=test"))
    learned(path, [-3.0, -2.0], "test/elbo_nats")
    axes = draw("curves", runs_of(tmp_path)).axes[0]
    assert axes.get_ylabel() == "Test ELBO (nats per image)"
    assert list(lines(axes)["VAE"].get_ydata()) == [-3.0, -2.0]


def test_metrics_in_model_space_are_labelled_so(tmp_path):
    learned(done(tmp_path, container(VAE, "dataset.dequantise=true", "dataset.logit_transform=true")), [-3.0])
    assert "in model space" in draw("curves", runs_of(tmp_path)).axes[0].get_ylabel()


def test_every_dataset_and_output_has_its_panel(tmp_path):
    learned(done(tmp_path, container(VAE)), [-3.0, -2.0])
    learned(done(tmp_path, container(VAE, "output_dist=bernoulli")), [-7.0, -6.0])
    found = {
        axes.get_title(): lines(axes)["VAE"].get_ydata()[0] for axes in draw("curves", runs_of(tmp_path)).axes
    }
    assert found == {"digits, Bernoulli": -7.0, "digits, Gaussian": -3.0}


@pytest.mark.parametrize("damage", ['{"epoch": 1\n', "[1, 2]\n", '{"validation/elbo_nats": 3}\n'])
def test_a_damaged_record_is_named_and_left_out(tmp_path, damage):
    learned(done(tmp_path, container(VAE, seed=0)), [-3.0])
    path = learned(done(tmp_path, container(VAE, seed=1)), [-3.0])
    (path / "metrics.jsonl").write_text(damage)
    (done(tmp_path, container(VLAE)) / "results.json").write_text("{")
    warnings = []
    axes = draw("curves", runs_of(tmp_path), warn=warnings.append).axes[0]
    assert list(lines(axes)["VAE"].get_ydata()) == [-3.0]
    left_out = [match[1] for text in warnings if (match := re.match(r"left out: (\w+)-", text))]
    assert left_out == ["vlae", "vae"]


# --- bars and costs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_point_is_the_mean_over_seeds_at_its_t(tmp_path):
    for seed in range(2):
        done(tmp_path, container(VAE, seed=seed), level=seed)
        for updates in (1, 4):
            done(tmp_path, container(VLAE, f"model.num_updates={updates}", seed=seed), level=updates + seed)
            done(tmp_path, container(HF, f"model.num_flows={updates}", seed=seed), level=updates - seed)
    runs = runs_of(tmp_path)
    axes = draw("likelihood_vs_updates", runs, metric=OWN).axes[0]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["none", "1", "4"]
    assert not axes.patches  # a bar would begin somewhere
    found, errors = {}, []
    for container_ in (each for each in axes.containers if isinstance(each, ErrorbarContainer)):
        ((x, y),) = container_.lines[0].get_xydata()
        found[container_.get_label().lower(), ticks[round(x)]] = y
        errors.append(sorted(container_.lines[2][0].get_segments()[0][:, 1]))
    expected = {}
    for run in runs.runs:
        place = run.value("model.name"), str(run.value("T") or "none")
        expected.setdefault(place, []).append(run.value(OWN))
    assert found == pytest.approx({place: statistics.fmean(values) for place, values in expected.items()})
    by_hand = [
        [m - e, m + e]
        for m, e in ((statistics.fmean(v), statistics.stdev(v) / 2**0.5) for v in expected.values())
    ]
    assert sorted(errors) == [pytest.approx(each) for each in sorted(by_hand)]


@pytest.mark.parametrize("kind", ["likelihood_vs_updates", "cost"])
@pytest.mark.parametrize("unreliable", [[False, False], [True, False], [True, True], [True]])
def test_points_of_unreliable_estimates_have_the_dagger_of_the_table(kind, unreliable):
    runs = [
        made_up(name, 1.0, unreliable=bad) for name, bad in zip(("vae", "vlae"), unreliable, strict=False)
    ]
    figure = draw(kind, Runs("", tuple(runs)))
    every = all(unreliable) and len(unreliable) > 1
    daggers = [text.xy[1] for text in figure.axes[0].texts if text.get_text() == MARK]
    assert daggers == ([] if every else [1.0] * sum(unreliable))
    assert (f"{MARK} unreliable" in figure.caption) == (any(unreliable) and not every)
    assert ("All estimates are unreliable" in figure.full_caption) == every


# --- texts keep apart -------------------------------------------------------------------------------------------------

LONG = "a_name_as_long_as_somebody_in_a_hurry_gave_it_and_never_changed_since_$x_1$"
MODELS = ("vae", "hf", "iaf", "vlae")
EXTREMES = {
    "one run of one epoch": [made_up("vae", -85.3, epochs=1)],
    "two runs": [
        made_up("vae", -85.3, 2.0, epochs=2),
        made_up("vlae", -84.1, 18.0, unreliable=True, epochs=2),
    ],
    "less than a decade": [
        made_up(m, -85.0 + i, s) for i, (m, s) in enumerate(zip(MODELS, (3, 9, 17, 25), strict=True))
    ],
    "seven decades": [
        made_up(m, -8500.0 + 700 * i, s, epochs=3000)
        for i, (m, s) in enumerate(zip(MODELS, (0.03, 9, 1700, 250000.0), strict=True))
    ],
    "equal": [made_up(m, -85.0) for m in MODELS],
    "almost equal": [made_up(m, -85.0 + 1e-7 * i, 3.0 + 1e-7 * i) for i, m in enumerate(MODELS)],
    "large": [made_up(m, 1234567.0 + 3e4 * i, 1234567.0 + 1e5 * i) for i, m in enumerate(MODELS)],
    "forty of T": [made_up("vlae", -85 + t / 10, 3.0 + t, model__num_updates=t) for t in range(1, 41)],
    "forty settings": [
        made_up("vlae", -85 + i / 10, 3.0 + i, optimizer__lr=i / 1000, unreliable=i % 2 == 0)
        for i in range(1, 41)
    ],
    "long names": [
        made_up(f"{LONG}{i}", -85.0 + i, 3.0 + i, dataset__name=f"{LONG}{i % 2}") for i in range(4)
    ],
    "seven panels": [made_up(m, -1.0, dataset__name=f"set {i}") for m in MODELS for i in range(7)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECORDED)
@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        *((name, False) for name in EXTREMES),
        *((name, True) for name in ("seven decades", "forty of T", "long names")),
    ],
)
def test_texts_in_figures_do_not_overlap(name, kind, narrow):
    figure = draw(kind, Runs("", tuple(EXTREMES[name])), narrow=narrow)
    assert faults(figure) == []
    assert not narrow or figure.get_figwidth() == NARROW


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30, 2000])
def test_epochs_have_whole_ticks(epochs):
    ticks, _, _ = texts(draw("curves", Runs("", (made_up("vae", -1.0, epochs=epochs),))))
    shown = [float(text) for text, _ in ticks[0]]
    assert shown == [round(tick) for tick in shown]
    assert 1 <= len(shown) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_MODELS)
def test_texts_in_figures_of_models_do_not_overlap(trained_runs, kind):
    for narrow in (False, True):
        assert faults(draw(kind, runs_of(trained_runs), narrow=narrow)) == []


@pytest.mark.slow
def test_published_metrics_are_drawn_with_their_source(tmp_path):
    for model in (VAE, VLAE):
        done(tmp_path, container("dataset=mnist", "output_dist=bernoulli", model), level=-90)
    runs = runs_of(tmp_path)
    figure = draw("likelihood_vs_updates", runs, published=True)
    shown = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_label() == "published"]
    values = [published_value(run, FITTED) for run in runs.runs]
    assert sorted(shown) == sorted(each.value for each in values)
    assert " ".join(values[0].source.split()) in " ".join(figure.caption.split())


@pytest.mark.slow
def test_costs_are_mean_seconds_and_metrics(tmp_path):
    some_runs(tmp_path)
    runs = runs_of(tmp_path)
    axes = draw("cost", runs, metric=OWN).axes[0]
    for found in (each for each in axes.containers if isinstance(each, ErrorbarContainer)):
        of_model = [run for run in runs.runs if run.value("model.name") == found.get_label().lower()]
        mean = [statistics.fmean(run.value(key) for run in of_model) for key in ("cost.train_seconds", OWN)]
        assert found.lines[0].get_xydata()[0] == pytest.approx(mean)


# --- what cannot be drawn ---------------------------------------------------------------------------------------------


def test_calibration_is_the_distribution_of_the_ranks_of_all_seeds(tmp_path):
    arrays = [ranks(seed, images=40 + seed, power=3.0) for seed in range(2)]
    for seed, each in enumerate(arrays):
        calibrate(done(tmp_path, container(VLAE, seed=seed)), **each)
    figure = draw("calibration", runs_of(tmp_path))
    pooled = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    for axes, what in zip(figure.axes, ("mass", "rank"), strict=True):
        own, fitted = axes.lines[-2:]
        for line, by in ((own, "own"), (fitted, "fitted")):
            x, y = line.get_data()
            share = [(pooled[f"calibration_{what}_{by}"] <= m).mean() for m in x]
            np.testing.assert_allclose(y, np.array(share) - (x if what == "rank" else 0))
        assert own.get_marker() != fitted.get_marker() == "none"
        assert own.get_color() == fitted.get_color() == style_of("vlae").color
    assert "2 seeds together" in figure.caption


def test_exact_regions_lie_in_the_binomial_band_as_often_as_it_says():
    images = 60
    low, high = binomial_band(images)
    assert (low[0], high[0], low[-1], high[-1]) == (0, 0, 1, 1)
    for point in (10, 50, 100, 190):
        mass = GRID[point]
        chance = [math.comb(images, k) * mass**k * (1 - mass) ** (images - k) for k in range(images + 1)]
        inside = [low[point] - 1e-9 <= k / images <= high[point] + 1e-9 for k in range(images + 1)]
        assert sum(c for c, holds in zip(chance, inside, strict=True) if holds) >= 0.95
        for tail in (0, -1):  # without its outermost share on either side it would be too narrow there
            outer = [k for k, holds in enumerate(inside) if holds][tail]
            beyond = chance[: outer + 1] if tail == 0 else chance[outer:]
            assert sum(beyond) > 0.025


def test_a_model_without_a_density_has_no_line_of_its_own(tmp_path):
    arrays = ranks()
    for what in ("mass", "rank"):
        arrays[f"calibration_{what}_own"] = np.full(100, np.nan)
    calibrate(done(tmp_path, container(VLAE)), **arrays)
    for axes in draw("calibration", runs_of(tmp_path)).axes:
        assert [line.get_marker() for line in axes.lines if line.get_color() != GREY] == ["none"]


def test_a_run_whose_ranks_are_missing_is_reported(tmp_path):
    calibrate(done(tmp_path, container(VLAE)))
    calibrate(done(tmp_path, container(VAE)), **ranks())
    warned = []
    draw("calibration", runs_of(tmp_path), warn=warned.append)
    assert [text for text in warned if "has no ranks" in text and "vlae" in text] == warned != []


def test_each_kind_explains_why_it_cannot_draw_these_runs(tmp_path):
    learned(stopped(tmp_path, container(VLAE), state="failed", reason="exception"), [-3.0])
    runs = runs_of(tmp_path)
    assert drawable(runs) == ["curves"]
    for kind in PLOTS.keys() - {"curves"}:
        with pytest.raises(UserError, match=f"^{kind}: no .* done.*; these runs can be drawn as curves$"):
            draw(kind, runs)
    done(tmp_path, container(VAE))
    assert drawable(runs_of(tmp_path)) == [
        "curves",
        "likelihood_vs_updates",
        "cost",
        "covariance",
        "estimators",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["curvs", "--out", "a.pdf"], "KIND: expected one of curves, likelihood_vs_updates, "),
        (
            ["curves", "--out", "a.pfd"],
            "expected a file that ends in .pdf, .svg, .png, got 'a.pfd'; did you mean pdf?",
        ),
        (["curves", "--out", ""], "--out: expected a file, got ''"),
        (["curves", "--out", "."], "--out: expected a file that ends in .pdf, .svg, .png, got '.'"),
        (["bogus", "--out", "a.pdf"], "updates, estimators, latent_path, got 'bogus'\n"),
        (["curves", "--out", "a.pdf", "--rows", ""], "--rows: expected one or several comma-separated keys"),
        (["curves", "--out", "a"], "expected a file that ends in .pdf"),
        (
            ["curves", "--out", "nowhere/a.pdf"],
            "cannot write nowhere/a.pdf: the directory nowhere does not exist",
        ),
        (["curves", "--out", "d.pdf"], "cannot write d.pdf: it is a directory"),
        (["curves", "--out", "a.pdf", "--where", "seed>7"], "no runs with seed>7"),
        (
            ["curves", "--out", "a.pdf", "--rows", "mdel"],
            "--rows: no run has 'mdel'; did you mean model?",
        ),
        (
            ["curves", "--out", "a.pdf", "--published"],
            "--published: curves has none; it is for likelihood_vs_updates",
        ),
        (["cost", "--out", "a.pdf", "--samples", "7"], "--samples: cost has none; it is for estimators"),
        (["cost", "--out", "a.pdf", "--metric", "x"], "--metric: no run has a metric 'x'"),
        (
            ["likelihood_vs_updates", "--out", "a.pdf", "--published"],
            "--published: no published",
        ),
        (["latent_path", "--out", "a.pdf"], "latent_path: no run with model.latent_dim=2 is done"),
    ],
)
def test_a_wrong_command_is_one_message_and_status_2(figure_command, tmp_path, monkeypatch, words, message):
    learned(done(tmp_path, container(VAE)), [-3.0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.pdf").mkdir()
    status, out, err = figure_command("vae", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("a*"))


@pytest.mark.slow
def test_different_settings_share_no_line(tmp_path):
    for lr in ("1e-3", "5e-4"):
        learned(done(tmp_path, container(VAE, f"optimizer.lr={lr}")), [-3.0])
    with pytest.raises(UserError, match=r"--rows model,optimizer.lr"):
        draw("curves", runs_of(tmp_path), rows=["model"])
    found = lines(draw("curves", runs_of(tmp_path)).axes[0])
    assert list(found) == ["VAE, optimizer.lr = 0.0005", "VAE, optimizer.lr = 0.001"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_process_draws_the_same_bytes_without_torch(tmp_path):
    some_runs(tmp_path, seeds=2)
    code = (
        "import sys; from vlae.report.plots.draw import draw\n"
        "from vlae.report.plots.frame import METADATA, file_content\n"
        "from vlae.report.sources.run_directories import collect_runs\n"
        f"runs = collect_runs(None, {str(tmp_path)!r})\n"
        f"figures = [draw(kind, runs) for kind in {RECORDED}]\n"
        "for figure in figures:\n"
        "    for suffix in METADATA: sys.stdout.buffer.write(file_content(figure, suffix))\n"
        "assert 'torch' not in sys.modules\n"
    )
    found = []
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
        assert ran.returncode == 0, ran.stderr.decode()
        found.append(ran.stdout)
    assert found[0] == found[1]
    assert found[0].count(b"%PDF-") == len(RECORDED)
    for date in (b"CreationDate", b"dc:date"):
        assert date not in found[0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", METADATA)
def test_the_same_runs_give_the_same_bytes(tmp_path, suffix, monkeypatch):
    some_runs(tmp_path, seeds=2)
    one = file_content(draw("curves", runs_of(tmp_path)), suffix)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert file_content(draw("curves", runs_of(tmp_path)), suffix) == one


def test_the_commands_offer_every_format_of_a_figure():
    assert tuple(METADATA) == FORMATS


@pytest.mark.slow
def test_the_command_writes_the_file_and_names_it(figure_command, tmp_path):
    some_runs(tmp_path, seeds=1)
    begins = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}
    for suffix, begin in begins.items():
        file = tmp_path / f"a.{suffix.upper()}"
        assert figure_command("v", "curves", "--out", file) == (0, f"{file}\n", "")
        assert file.read_bytes().startswith(begin)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", METADATA)
def test_the_caption_is_a_file_and_metadata(figure_command, tmp_path, suffix):
    some_runs(tmp_path, seeds=2)
    runs, file = runs_of(tmp_path), tmp_path / f"a.{suffix}"
    figure = draw("cost", runs)
    _, others, _ = texts(figure)
    assert not any("log-likelihood in nats" in text for text, _ in others)
    assert figure.caption.startswith(
        "Test log-likelihood in nats per image (higher is better), estimated with a proposal fitted to p(z | x)"
    )
    figure_command("v", "cost", "--out", file)
    first, _, *rest = (tmp_path / "a.caption.tex").read_text().splitlines()
    assert first == "% v, cost. Code: cccccccccc"
    assert [line.removesuffix("%") for line in rest] == [
        tex(draw("cost", runs, where="model in vlae,vae").caption)
    ]
    content = file.read_bytes()
    if suffix != "pdf":  # which packs it
        assert b"Code: cccccccccc" in content
        assert b"Test log-likelihood in nats per image" in content


@pytest.mark.slow
def test_a_paper_includes_the_caption(figure_command, tmp_path):
    need("pdflatex", "pdftotext", packages="texlive-latex-base texlive-latex-recommended poppler-utils")
    some_runs(tmp_path, seeds=2)
    figure_command("v", "cost", "--out", tmp_path / "a.pdf")
    caption = re.search(r"% In a paper: (.*)", (tmp_path / "a.caption.tex").read_text())[1]
    figure = rf"\begin{{figure}}\includegraphics{{a.pdf}}{caption}\end{{figure}}"
    paper = rf"\documentclass{{article}}\usepackage{{graphicx}}\begin{{document}}{figure}\listoffigures\end{{document}}"
    (tmp_path / "paper.tex").write_text(paper)
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    text = subprocess.run(
        ["pdftotext", tmp_path / "paper.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    assert "Figure 1: Test log-likelihood in nats per image" in text


def test_the_help_of_the_command_names_every_kind(figure_command):
    _, out, _ = figure_command("--help")
    assert all(kind in out for kind in PLOTS)


# --- of trained models ------------------------------------------------------------------------------------------------

TINY = (
    "model.latent_dim=2", "model.hidden_dims=[6,5]", "trainer.epochs=1", "evaluate.num_samples=20",
    "evaluate.num_images=7", "evaluate.num_gap_images=0", "device=cpu", "num_threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory):
    """One epoch of five models in two dimensions."""
    runs_dir = tmp_path_factory.mktemp("runs")
    for model in ("vae", "savae", "hf", "iaf", "vlae"):
        vlae.run([*TINY, f"model={model}", f"runs_dir={runs_dir}"], quiet=True)
    return runs_dir


def model_of(runs_dir, name):
    (place,) = runs_dir.glob(f"{name}-*")
    return Library().inspect(str(place))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "savae", "hf", "iaf", "vlae"])
def test_covariances_are_those_of_samples_of_q(trained_runs, name):
    model = model_of(trained_runs, name)
    for i, ours in enumerate(model.covariances(2)):
        q = model.model.posterior(model.x[i : i + 1], model._noise(slice(i, i + 1)))
        z, _ = q.rsample_with_log_prob(torch.randn(100_000, 1, q.noise_dim))
        expected = torch.cov(z[:, 0].detach().double().T).numpy()
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        assert (np.abs(ours - expected) / scale).max() < 0.05


@pytest.mark.slow
def test_covariance_has_a_row_per_image_and_column_per_model(trained_runs):
    figure = draw("covariance", runs_of(trained_runs), images=2)
    pictures = [axes for axes in figure.axes if axes.images]
    names = ["Test image", "VAE", "SA-VAE", "HF", "IAF", "VLAE"]
    assert [axes.get_title() for axes in pictures] == [*names, *[""] * 6]
    for column, name in enumerate(names[1:], 1):
        model = model_of(trained_runs, name.lower().replace("-", ""))
        for row, matrix in enumerate(model.covariances(2)):
            shown = pictures[row * len(names) + column].images[0].get_array()
            np.testing.assert_allclose(shown, matrix)


@pytest.mark.slow
def test_updates_shows_images_after_each_update(trained_runs):
    figure = draw("updates", runs_of(trained_runs), images=2)
    strips = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.images}
    assert list(strips) == ["SA-VAE", "VLAE"]
    model = model_of(trained_runs, "vlae")
    mu = model.model.refinements(model.x[:2], model._noise(slice(0, 2)))
    with torch.no_grad():
        shown = [model.x[:2], *(model.model.output.mean(model.model.decoder(each)) for each in mu)]
    pictures = [model.trained.preprocess.images(x)[:, 0] for x in shown]
    image = np.asarray(strips["VLAE"].images[0].get_array())
    for column, of_step in enumerate(pictures):
        for row, picture in enumerate(of_step):
            tile = image[row * 9 : row * 9 + 8, column * 9 : column * 9 + 8]
            np.testing.assert_allclose(tile, picture.numpy(), atol=1e-6)
    line = lines(figure.axes[-1])["VLAE"]
    x, *reached = (model.trained.preprocess.images(model.x), *model.refinements(7).pictures)
    errors = [((x[:, 0].numpy() - each) ** 2).mean() for each in reached]
    np.testing.assert_allclose(line.get_ydata(), errors, rtol=1e-5)


@given(st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_tiles_lie_side_by_side(columns, rows, colours):
    shape = (columns, rows, 2, 3, *([3] if colours else []))
    pictures = np.arange(math.prod(shape)).reshape(shape) / math.prod(shape)
    found = tile(pictures)
    for column in range(columns):
        for row in range(rows):
            shown = found[row * 3 : row * 3 + 2, column * 4 : column * 4 + 3]
            np.testing.assert_array_equal(shown, pictures[column, row])


@pytest.mark.slow
def test_estimates_end_in_the_recorded_one(trained_runs):
    runs = runs_of(trained_runs)
    figure = draw("estimators", runs, where="model in vae,vlae", images=5)
    for axes, name in zip(figure.axes, ("vae", "vlae"), strict=True):
        model = model_of(trained_runs, name)
        recorded = np.load(model.trained.directory.path / "test_log_likelihood.npz")
        assert list(lines(axes)) == ["own", "fitted"]
        for proposal, line in lines(axes).items():
            array = "log_likelihood" if proposal == "own" else "log_likelihood_fitted"
            assert list(line.get_xdata()) == [1, 2, 5, 10, 20]
            assert line.get_ydata()[-1] == pytest.approx(recorded[array][:5].mean(), abs=1e-5)
            x = model.x[:5]
            again = evaluate(model.model, x, proposal=proposal, num_samples=5, memory_budget=16, seed=0)
            expected = (again.log_likelihood + model.trained.preprocess.unit_log_jacobian(x)).mean().item()
            assert line.get_ydata()[2] == pytest.approx(expected, abs=1e-5)


@given(st.integers(1, 10**6))
def test_sample_sizes_grow_to_the_largest(most):
    sizes = sample_sizes(most)
    assert sizes[-1] == most
    assert sizes == sorted(set(sizes))
    assert all(str(size).strip("0") in ("1", "2", "5") for size in sizes[:-1])


@pytest.mark.slow
def test_the_path_is_that_of_the_search_and_ends_at_its_mode(trained_runs):
    figure = draw("latent_path", runs_of(trained_runs), where="model=vlae", images=1)
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "VLAE"]
    model, found = model_of(trained_runs, "vlae"), lines(axes)
    mu = torch.cat(model.model.refinements(model.x[:1], model._noise(slice(0, 1))))
    np.testing.assert_allclose(found["updates"].get_xydata(), mu.detach().numpy(), atol=1e-6)
    search = found["search for the mode"].get_xydata()
    np.testing.assert_allclose(search[0], found["updates"].get_xydata()[-1], atol=1e-6)
    assert (np.diff(model.log_joint(0)(search)) > -1e-3).all()
    modes = find_modes(model.model.output, model.model.decoder, model.x[:1], mu[-1:].detach())
    np.testing.assert_allclose(search[-1:], modes.z.numpy(), atol=1e-6)


@pytest.mark.slow
def test_the_ellipse_of_q_is_at_two_standard_deviations(trained_runs):
    figure = draw("latent_path", runs_of(trained_runs), where="model=vae", images=1)
    q = model_of(trained_runs, "vae").latent_paths(0)
    points = lines(figure.axes[0])["q(z | x)"].get_xydata() - q.mean
    distances = np.einsum("ni,ij,nj->n", points, np.linalg.inv(q.covariance), points)
    np.testing.assert_allclose(distances, 4, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_MODELS)
def test_figures_of_models_are_reproduced_byte_for_byte(trained_runs, kind):
    runs = runs_of(trained_runs).only(lambda run: run.value("model.name") in ("savae", "vlae"))
    one, other = (file_content(draw(kind, runs, images=1), "svg") for _ in range(2))
    assert one == other


@pytest.mark.slow
def test_an_unreadable_model_gives_way_to_another_seed(trained_runs, tmp_path):
    for seed in (0, 1):
        vlae.run([*TINY, "model=vae", f"seed={seed}", f"runs_dir={tmp_path}"], quiet=True)
    runs, warnings = runs_of(tmp_path), []
    for file in Path(runs.runs[0].directory, "checkpoints").iterdir():
        file.write_bytes(b"")
    figure = draw("covariance", runs, images=1, warn=warnings.append)
    assert "Models of seed 1" in figure.caption
    assert any(text.startswith(f"left out: {runs.runs[0].id} (") for text in warnings)
    for file in Path(runs.runs[1].directory, "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(
        UserError, match=r"no trained model of these runs can be read: .*damaged: it is empty"
    ):
        draw("covariance", runs)


@pytest.mark.slow
def test_too_few_images_are_reported(trained_runs):
    runs, warnings = runs_of(trained_runs).only(lambda run: run.value("model.name") == "vae"), []
    figure = draw("estimators", runs, images=100_000, warn=warnings.append)
    assert warnings == ["--images: 7 test images are shown, not 100000: the models were scored on no more"]
    assert "of the first 7 test images" in figure.caption
    draw("estimators", runs, images=7, warn=warnings.append)
    assert len(warnings) == 1


@pytest.mark.slow
def test_models_of_several_datasets_share_no_test_image(tmp_path):
    for output in ("gaussian", "bernoulli"):
        vlae.run([*TINY, "model=vae", f"output_dist={output}", f"runs_dir={tmp_path}"], quiet=True)
    with pytest.raises(UserError, match=r"--where: .*digits, Bernoulli; digits, Gaussian"):
        draw("covariance", runs_of(tmp_path))
