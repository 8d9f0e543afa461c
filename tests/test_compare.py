"""Two runs side by side: their different settings, and the paired difference of their metrics."""

import re

import numpy as np
import pytest
from recorded import IMAGES, container, done, stopped
from scipy.stats import ttest_rel
from test_drawings import learned, lines

from vlae.cli.comparison import comparable_run
from vlae.config.run_id import settings
from vlae.errors import UserError
from vlae.report.compare import compare_runs
from vlae.report.plots.draw import draw
from vlae.report.plots.frame import file_content
from vlae.report.runs import Runs

VAE, VLAE = "model=vae", "model=vlae"
OWN, FITTED = "test.log_likelihood.own.mean", "test.log_likelihood.fitted.mean"


@pytest.fixture
def compare(command, tmp_path):
    """``vlae compare <words>``"""
    return lambda *words: command("compare", *words, "--runs-dir", tmp_path)


def comparison(runs_dir, one, other):
    return compare_runs(comparable_run(runs_dir, one), comparable_run(runs_dir, other))


def figures(found):
    return {each.key: each for each in found.metrics}


def test_only_settings_that_differ_are_shown(tmp_path):
    one, other = container(VAE, seed=1), container(VLAE, "optimizer.lr=1e-3")
    done(tmp_path, one)
    done(tmp_path, other)
    found = {each.key: (each.one, each.other) for each in comparison(tmp_path, "vae", "vlae").settings}
    ours, others = settings(one), settings(other)
    expected = {
        key: (ours.get(key), others.get(key)) for key in ours | others if ours.get(key) != others.get(key)
    }
    assert found == {key: values for key, values in expected.items() if not key.endswith("_target_")}
    assert {"seed", "model.name", "optimizer.lr", "model.num_updates"} <= found.keys()


def test_the_difference_is_a_paired_t_test_over_images(tmp_path):
    paths = [done(tmp_path, container(VAE)), done(tmp_path, container(VLAE), level=0.1)]
    arrays = [np.load(path / "test_log_likelihood.npz") for path in paths]
    found = figures(comparison(tmp_path, "vae", "vlae"))
    for key, name in ((OWN, "log_likelihood"), (FITTED, "log_likelihood_fitted")):
        one, other = (array[name] for array in arrays)
        expected, d = ttest_rel(one, other), found[key].difference
        assert d.mean == pytest.approx((one - other).mean())
        assert d.mean == pytest.approx(found[key].one - found[key].other)
        assert d.p_value == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval(0.95)
        assert d.interval == pytest.approx((interval.low, interval.high))
        assert d.significant == (not d.interval[0] <= 0 <= d.interval[1])
    assert comparison(tmp_path, "vae", "vlae").images == IMAGES


def test_a_run_with_damaged_images_is_named(compare, tmp_path):
    paths = [done(tmp_path, container(model)) for model in (VAE, VLAE)]
    assert comparison(tmp_path, "vae", "vlae").unread == ()
    (paths[1] / "test_log_likelihood.npz").write_bytes(b"damaged")
    found = comparison(tmp_path, "vae", "vlae")
    assert [left.name for left in found.unread] == [paths[1].name]
    assert not any(each.difference for each in found.metrics)
    status, out, _ = compare("vae", "vlae")
    text = " ".join(out.split())
    assert status == 0
    assert f"cannot be read: {paths[1].name} (test_log_likelihood.npz cannot be read (" in text


def test_images_unknown_in_both_runs_cause_no_warning(compare, tmp_path):
    paths = [done(tmp_path, container(model)) for model in (VAE, VLAE)]
    unknown = np.full(IMAGES, np.nan)
    np.savez(paths[0] / "test_log_likelihood.npz", log_likelihood=unknown, log_likelihood_fitted=unknown)
    assert not any(each.difference for each in comparison(tmp_path, "vae", "vlae").metrics)
    status, out, err = compare("vae", "vlae")
    assert (status, err) == (0, "")
    assert "No metric is known for each image of both runs" in " ".join(out.split())


def test_the_reverse_comparison_has_opposite_signs(tmp_path):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE), level=0.1)
    one, other = comparison(tmp_path, "vae", "vlae"), comparison(tmp_path, "vlae", "vae")
    back = figures(other)
    for key, each in figures(one).items():
        assert (each.one, each.other) == (back[key].other, back[key].one)
        if each.difference:
            assert back[key].difference.mean == pytest.approx(-each.difference.mean)
            assert back[key].difference.interval == pytest.approx(
                tuple(-end for end in reversed(each.difference.interval))
            )


def test_seeds_that_do_not_choose_images_may_differ(tmp_path):
    done(tmp_path, container(VAE, seed=0))
    done(tmp_path, container(VAE, "trainer.epochs=3", "evaluate.num_samples=10", seed=1))
    assert figures(comparison(tmp_path, "vae-digits-gaussian-s0", "vae-digits-gaussian-s1"))[OWN].difference


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset=mnist",), "dataset.name: digits and mnist"),
        (("dataset.split_seed=1",), "dataset.split_seed: 0 and 1"),
        (("evaluate.num_images=7",), "evaluate.num_images: – and 7"),
        (("output_dist=bernoulli",), "output_dist.name: gaussian and bernoulli"),
        (("dataset.dequantise=true",), "dataset.dequantise: false and true"),
    ],
)
def test_runs_with_other_test_images_are_refused_with_the_reason(compare, tmp_path, overrides, message):
    one, other = done(tmp_path, container(VAE)), done(tmp_path, container(VAE, *overrides))
    status, out, err = compare(one.name, other.name)
    assert (status, out) == (2, "")
    assert "scored on different test images" in err
    assert message in err


def test_without_fixed_noise_seeds_choose_the_test_images(tmp_path):
    for seed in (0, 1):
        done(tmp_path, container(VAE, "dataset.fixed_evaluation=false", seed=seed))
    with pytest.raises(UserError, match=r"different test images.*\n  seed: 0 and 1"):
        comparison(tmp_path, "vae-digits-gaussian-s0", "vae-digits-gaussian-s1")


def test_a_run_that_is_not_done_has_a_state_and_no_difference(compare, tmp_path):
    done(tmp_path, container(VAE))
    stopped(tmp_path, container(VLAE), state="failed", reason="exception")
    status, out, _ = compare("vae", "vlae")
    assert status == 0
    assert re.search(r"state │ done +│ failed \(exception\)", out)
    assert "so there is no difference yet" in out
    assert not any(each.difference for each in comparison(tmp_path, "vae", "vlae").metrics)


def test_an_unreliable_estimate_is_marked(compare, tmp_path):
    done(tmp_path, container(VAE), unreliable=0.5)
    done(tmp_path, container(VLAE))
    line = next(line for line in compare("vae", "vlae")[1].splitlines() if OWN in line)
    assert [("†" in cell) for cell in line.split("│")[2:4]] == [True, False]


@pytest.mark.slow
def test_the_learning_curves_are_those_of_both_runs(compare, tmp_path):
    for seed in (0, 1):
        learned(done(tmp_path, container(VAE, seed=seed)), [-3.0 - seed, -2.0])
    file = tmp_path / "a.svg"
    status, out, _ = compare("vae-digits-gaussian-s0", "vae-digits-gaussian-s1", "--out", file)
    assert (status, out.splitlines()[-1]) == (0, str(file))
    both = [comparable_run(tmp_path, f"vae-digits-gaussian-s{seed}") for seed in (0, 1)]
    figure = draw("curves", Runs("", tuple(both)), rows=["model", "id"])
    assert [list(line.get_ydata()) for line in lines(figure.axes[0]).values()] == [[-3.0, -2.0], [-4.0, -2.0]]
    assert file_content(figure, "svg") == file.read_bytes()


@pytest.mark.slow
def test_the_same_runs_print_the_same(compare, tmp_path):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE))
    assert compare("vae", "vlae") == compare("vae", "vlae")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vae", "vae"], "RUN_A and RUN_B are the same run, vae-"),
        (["vae", "nothing"], "no run 'nothing' in"),
        (["vae", "v"], "could be any of 3 runs"),
        (["vae", "vlae-digits-gaussian-s1"], "cannot be compared: "),
        (
            ["vae", "vlae-digits-gaussian-s0", "--out", "a.txt"],
            "expected a file that ends in .pdf, .svg, .png",
        ),
        (["vae", "vlae-digits-gaussian-s0", "--out", "no/a.pdf"], "the directory no does not exist"),
    ],
)
def test_a_wrong_command_is_one_message_and_status_2(compare, tmp_path, words, message):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE))
    (done(tmp_path, container(VLAE, seed=1)) / "results.json").write_text("{")
    status, out, err = compare(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
