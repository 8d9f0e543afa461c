"""Bounds of log p(x) that hold, modes that they find, and posteriors whose calibration is known."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PIXELS, linear, make_decoder, make_images, make_model, make_output, noise
from rich.console import Console
from scipy.stats import kstest
from torch.distributions import MultivariateNormal

import vlae
from vlae.config.schema import Evaluate
from vlae.data.preprocess import Preprocess
from vlae.data.splits import Splits
from vlae.distributions.posteriors import PrecisionGaussian, cholesky, standard_normal_log_prob
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.bounds import Chains, bound, resample
from vlae.estimation.calibration import ranks_under, simulate, weighted_ranks
from vlae.estimation.estimators import bracket as brackets
from vlae.estimation.estimators.bracket import arrays, coverage, metrics, parts
from vlae.estimation.parts import Subject
from vlae.estimation.proposals.fitted import FIRST, fit
from vlae.estimation.proposed import DecoderGroup
from vlae.experiment.summary import run_summary, uniform_distance
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.nn.networks import Decoder
from vlae.report.html.details import metrics_in_words
from vlae.report.sources.run_directories import collect_runs
from vlae.seeding import generator

CHAINS = Chains(num_chains=16, num_distributions=20, num_leapfrog=3)
NUMBERS = (
    "lower", "upper", "lower_error", "upper_error", "ess", "acceptance", "fitted",
    "fitted_mass", "fitted_rank", "own_mass", "own_rank",
)  # fmt: skip


@torch.no_grad()
def two_modes(images):
    """f(z) = |z| w, so that each posterior is symmetric: (group, true z, log p(x))."""
    output, decoder = make_output("gaussian").double(), Decoder.mlp(1, [2], PIXELS).double()
    first, last = decoder.body.linears[0], decoder.last
    first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    last.weight.fill_(1.0)
    first.bias.zero_()
    last.bias.zero_()
    z, x = simulate(output, decoder, images, seed=3)
    side = torch.linspace(-8, 8, 8001).double().unsqueeze(-1)
    log_joint = output.log_prob(
        x, decoder(side).unsqueeze(1).expand(-1, images, -1)
    ) + standard_normal_log_prob(side).unsqueeze(-1)
    log_p = log_joint.logsumexp(0) + (side[1] - side[0]).log()
    return group_of(output, decoder, x), z, log_p


@torch.no_grad()
def linear_gaussian(images):
    """A linear decoder: (group, true z, log p(x), mean of p(z | x), its precision)."""
    output, decoder = make_output("gaussian").double(), make_decoder((8, 6))
    W, b = linear(decoder)
    z, x = simulate(output, decoder, images, seed=3)
    variance = output.log_variance.exp()
    P = W.T @ W / variance + torch.eye(W.shape[1]).double()
    log_p = MultivariateNormal(b, W @ W.T + variance * torch.eye(PIXELS).double()).log_prob(x)
    mean = torch.linalg.solve(P, W.T @ (x - b).T / variance).T
    return group_of(output, decoder, x), z, log_p, mean, P


def group_of(output, decoder, x):
    return DecoderGroup(output, decoder, output.scorer(decoder), x, range(len(x)), 0, "test", 3072)


def assert_mean_is_one(log_values):
    values = log_values.exp()
    assert (values.mean() - 1).abs() < 4.5 * values.std() / len(values) ** 0.5 + 1e-6


@pytest.mark.parametrize("case", [linear_gaussian, two_modes])
def test_both_bounds_hold_in_expectation(case):
    """E exp(lower - log p) = 1 for each image; E exp(log p - upper) = 1 over images drawn from the model."""
    group, z, log_p, *_ = case(64)
    found = bound(group, fit(group, FIRST), Chains(8, 4, 2), z)
    lower, upper = found.forward.log_mean, -found.backward.log_mean
    assert (lower - log_p).abs().max() > 1e-6, "nothing to average: no test"
    assert_mean_is_one(lower - log_p)
    assert_mean_is_one(log_p - upper)


@torch.no_grad()
def around_modes(group, signs):
    """Student t around those of both modes of `two_modes` that have these signs, each of the mode's own precision."""
    w, variance = group.decoder(torch.ones(1, 1).double())[0], group.output.log_variance.exp()
    precision = 1 + w.square().sum() / variance
    mode = (group.x @ w / variance / precision).abs()
    mu = torch.stack([sign * mode for sign in signs], 1).unsqueeze(-1)
    L = precision.sqrt().expand(*mu.shape, 1)
    return StudentTMixture(torch.zeros_like(mu[..., 0]), mu, L, 10)


def test_a_mode_that_the_proposal_misses_widens_the_gap_of_simulated_images_alone():
    """Chains that begin in one of two equal modes miss log 2, and nothing but the true z shows the other."""
    group, z, log_p = two_modes(100)
    apart = (z.abs()[:, 0] > 0.8).nonzero()[:, 0]
    group, z, log_p = group.select(apart), z[apart], log_p[apart]
    both, one = around_modes(group, (1, -1)), around_modes(group, (1,))

    def gap(q, exact):
        found = bound(group, q, CHAINS, exact)
        return (-found.backward.log_mean - found.forward.log_mean).mean()

    assert abs(gap(both, z)) < 0.1
    assert abs(gap(one, None)) < 0.1
    assert gap(one, z) > 0.5
    short = log_p - bound(group, one, CHAINS, z).forward.log_mean
    torch.testing.assert_close(short.mean(), torch.tensor(2.0).double().log(), rtol=0, atol=0.1)


def test_resampling_is_systematic_and_unbiased():
    """Each point is drawn floor(N w) or one more times, N w times on average."""
    images, w = 4000, torch.tensor([0.05, 0.3, 0.0, 0.4, 0.25]).double()
    z = torch.arange(5.0).double().view(5, 1, 1).expand(5, images, 1)
    drawn = resample(z, w.log().unsqueeze(-1).expand(5, images), noise(images))
    counts = torch.stack([(drawn[..., 0] == point).sum(0) for point in range(5)]).double()
    expected = 5 * w.unsqueeze(-1)
    assert torch.all((counts >= expected.floor()) & (counts <= expected.floor() + 1))
    torch.testing.assert_close(counts.mean(1, keepdim=True), expected, rtol=0, atol=0.04)


def test_ranks_are_uniform_under_the_exact_posterior_alone():
    """One that is too narrow holds the true z too rarely; one in another place is seen by the ranks."""
    group, z, _, mean, P = linear_gaussian(400)
    L = cholesky(P[None]).expand(len(z), -1, -1)
    found = ranks_under(group, PrecisionGaussian(mean, cholesky=L), z)
    assert min(kstest(values, "uniform").pvalue for values in found) > 0.001
    narrow = ranks_under(group, PrecisionGaussian(mean, cholesky=1.5 * L), z)
    assert narrow.mass.mean() > found.mass.mean() + 0.1
    assert max(kstest(values, "uniform").pvalue for values in narrow) < 0.001
    (shares, exact) = (coverage(each.mass, each.rank) for each in (narrow, found))
    for percent in (50, 90):
        error = exact[f"coverage_{percent}_standard_error"]
        assert abs(exact[f"coverage_{percent}"] - percent / 100) < 4 * error
        assert shares[f"coverage_{percent}"] < percent / 100 - 2 * error


def test_a_posterior_in_the_wrong_place_has_no_uniform_mass():
    group, z, _, mean, P = linear_gaussian(400)
    L = cholesky(P[None]).expand(len(z), -1, -1)
    moved = mean + torch.linalg.inv(L[0]).T.sum(-1)  # by one standard deviation in each white direction
    assert kstest(ranks_under(group, PrecisionGaussian(moved, cholesky=L), z).mass, "uniform").pvalue < 1e-6


def test_weighted_ranks_are_uniform_where_no_gaussian_is_exact():
    """Two modes: the weighted samples of the fitted proposal are p(z | x), and their mean weight is p(x)."""
    group, z, log_p = two_modes(300)
    found, weights = weighted_ranks(group, fit(group, FIRST), z)
    assert min(kstest(values, "uniform").pvalue for values in found) > 0.001
    missed = (weights.log_mean - log_p).abs() > 5 * weights.standard_error + 1e-6
    assert missed.double().mean() < 0.02  # all starts of one image in 128 lie on the same side
    both = around_modes(group, (1, -1))
    lopsided = both.with_parameters(
        both.log_weights + torch.tensor([0.0, -1.5]).double(), both.mu, both.cholesky
    )
    assert min(kstest(values, "uniform").pvalue for values in weighted_ranks(group, lopsided, z)[0]) > 0.001
    missed, _ = weighted_ranks(group, around_modes(group, (1,)), z)
    assert kstest(missed.rank, "uniform").pvalue < 1e-6


def test_a_known_set_of_ranks_has_its_coverage_and_its_distance():
    """A share of 0 or 1 has an error, too; the distance is that of scipy."""
    mass = torch.tensor([0.1, 0.2, 0.5, 0.51, 0.89, 0.95, 0.97, 0.99]).double()
    found = coverage(mass, mass)
    assert (found["coverage_50"], found["coverage_90"]) == (3 / 8, 5 / 8)
    assert found["rank_distance"] == pytest.approx(kstest(mass, "uniform").statistic, abs=1e-6)
    assert coverage(mass / 10, mass)["coverage_50_standard_error"] > 0.1


def test_uniform_ranks_stay_below_the_distance_in_95_of_100_sets():
    for size in (20, 100, 400):
        ordered, edges = np.sort(np.random.default_rng(0).random((4000, size))), np.arange(size + 1) / size
        distances = np.maximum(edges[1:] - ordered, ordered - edges[:-1]).max(1)
        assert np.mean(distances < uniform_distance(size)) == pytest.approx(0.95, abs=0.015)


# --- the estimator ----------------------------------------------------------------------------------------------------


class Bare:
    """A posterior that can do nothing but draw."""

    def __init__(self, q):
        self.q, self.noise_dim = q, q.noise_dim

    def rsample_with_log_prob(self, eps):
        return self.q.rsample_with_log_prob(eps)


class Densityless(VAE):
    """A user's model whose posterior has no density at foreign points."""

    def posterior(self, x, noise):
        return Bare(super().posterior(x, noise))


@cache
def pixels():
    """Images in [0, 1] as they are."""
    images = torch.rand(2, 1, 1, PIXELS, generator=generator("cpu", "pixels"))
    splits = Splits(train=images, validation=images, test=images, levels=None, seed=0)
    return Preprocess.fit({}, splits, "real", dtype=torch.float64)


@cache
def model_of(kind):
    model = make_model(kind, "gaussian")
    model.decoder, model.output = make_model(VAE, "gaussian").decoder, make_model(VAE, "gaussian").output
    return model


def subject_of(kind, images, **options):
    section = {"num_images": images, "num_chains": 4, "num_distributions": 4} | options
    evaluate = Evaluate(proposals=["own"], bracket=section)
    return Subject(
        model_of(kind),
        pixels(),
        make_images("gaussian", 7),
        evaluate,
        seed=0,
    )


def measured(subject, stop_at=None):
    """The results of all parts; stop_at: interrupted once after so many images, and resumed."""
    found = {}
    for part in parts(subject):

        def stop(done):
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                part.run(result=part.result, report=stop)
            assert 0 < part.result.done < len(part.result)
        found[part.key] = part.run(result=part.result, report=lambda done: None)
    return found


def assert_equal(ours, expected, images=slice(None)):
    for name in NUMBERS:
        mine, other = (getattr(each, name)[images].nan_to_num(-9e9) for each in (ours, expected))
        assert torch.equal(mine, other), name


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(brackets, "GROUP", 2)


@pytest.mark.slow
def test_a_bracket_that_is_stopped_resumes_to_the_same_bits(small_groups):
    expected = measured(subject_of(VAE, 5))
    again = measured(subject_of(VAE, 5), stop_at=2)
    for key, result in expected.items():
        assert_equal(again[key], result)


@pytest.mark.slow
def test_more_images_take_over_the_first_ones(small_groups):
    """So a run with more images computes the others only, and an image has the same bits in both."""
    four, six = (measured(subject_of(VAE, images)) for images in (4, 6))
    for part in parts(subject_of(VAE, 6)):
        result = part.result.with_first_of(four[part.key])
        assert result.done == 4
        assert_equal(part.run(result=result, report=lambda done: None), six[part.key])


@pytest.mark.slow
def test_an_image_has_almost_the_same_bounds_in_any_group(monkeypatch):
    """Moves magnify rounding, which depends on the group's size: in float64 the others' images do not matter."""
    together = measured(subject_of(VAE, 5))
    monkeypatch.setattr(brackets, "GROUP", 1)
    alone = measured(subject_of(VAE, 5))
    for key, result in together.items():
        for name in NUMBERS:
            mine, other = getattr(alone[key], name), getattr(result, name)
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-6, equal_nan=True)


def test_bounds_depend_on_the_decoder_the_image_and_the_seed_alone():
    """Models with one decoder and different encoders have the same bits, but for the calibration of their own q."""
    one, other = (measured(subject_of(kind, 4)) for kind in (VAE, VLAE))
    shared = [name for name in NUMBERS if not name.startswith("own")]
    for key in one:
        for name in shared:
            mine, others = (getattr(each[key], name).nan_to_num(-9e9) for each in (one, other))
            assert torch.equal(mine, others), (key, name)
    assert not torch.equal(one["bracket.simulated"].own_mass, other["bracket.simulated"].own_mass)
    subject = subject_of(VAE, 4)
    subject.seed = 1
    assert not torch.equal(measured(subject)["bracket.real"].lower, one["bracket.real"].lower)


def test_no_images_are_no_parts():
    subject = subject_of(VAE, 0)
    assert measured(subject) == {}
    assert metrics({}, subject) == {}
    assert arrays({}, subject) == {}


def test_as_many_images_are_drawn_as_are_bracketed():
    found = measured(subject_of(VAE, 100))
    assert [len(found[f"bracket.{name}"]) for name in ("real", "simulated")] == [7, 7]


def test_a_model_without_a_density_has_no_calibration_of_its_own():
    subject = subject_of(Densityless, 4)
    results = measured(subject)
    found = metrics(results, subject)["bracket"]
    assert set(found["calibration"]) == {"fitted"}
    assert 0 <= found["calibration"]["fitted"]["coverage_50"] <= 1
    assert torch.isnan(arrays(results, subject)["calibration_mass_own"]).all()


# --- a run ------------------------------------------------------------------------------------------------------------

TINY = (
    "model=vae", "dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=1",
    "evaluate.proposals=[own]", "evaluate.num_samples=20", "evaluate.num_images=6", "evaluate.num_gap_images=0",
    "evaluate.bracket.num_chains=4", "evaluate.bracket.num_distributions=5", "device=cpu", "num_threads=1",
    "dataset.dequantise=true", "dataset.logit_transform=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(results, run directory) of a run with a bracket."""
    runs_dir = tmp_path_factory.mktemp("runs")
    results = vlae.run([*TINY, f"runs_dir={runs_dir}"], quiet=True)
    path = Path(runs_dir) / results["run_id"]
    return json.loads((path / "results.json").read_text()), path


def printed(results, capsys):
    Console(width=80, highlight=False).print(run_summary(results, Path("here")))
    return capsys.readouterr().out


def test_results_are_means_of_the_arrays(finished):
    results, path = finished
    numbers, found = np.load(path / "test_log_likelihood.npz"), results["test"]["bracket"]
    real = {name: numbers[f"bracket_{name}"][:6] for name in ("lower", "upper")}
    assert found["real"]["lower"]["mean"] == pytest.approx(real["lower"].mean(), rel=1e-9)
    assert found["real"]["gap"] == pytest.approx((real["upper"] - real["lower"]).mean(), rel=1e-6, abs=1e-9)
    difference = numbers["log_likelihood"] - real["lower"]
    assert found["real"]["proposals"]["own"]["difference"] == pytest.approx(difference.mean(), abs=1e-6)
    gap = numbers["simulated_upper"] - numbers["simulated_lower"]
    assert found["simulated"]["gap"] == pytest.approx(gap.mean(), rel=1e-6, abs=1e-9)
    for name, section in found["calibration"].items():
        mass = numbers[f"calibration_mass_{name}"]
        assert section["coverage_90"] == pytest.approx((mass <= 0.9).mean())


def test_the_summary_has_a_table_of_bounds_and_one_of_calibration(finished, capsys):
    results = finished[0]
    text, found = printed(results, capsys), results["test"]["bracket"]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 2}
    for check in ("real", "simulated"):
        for name in ("upper", "lower"):
            bound = found[check][name]
            assert f"{bound['mean']:.2f} ± {bound['standard_error']:.2f}" in rows[f"{name} bound"]
        assert f"{found[check]['gap']:.2f} ± {found[check]['gap_standard_error']:.2f}" in rows["gap"]
    assert f"{found['real']['proposals']['own']['difference']:.2f} ±" in rows["own minus lower bound"]
    assert "bracket.real" not in text, "the general table of any estimator is not shown as well"
    for name, section in found["calibration"].items():
        line = next(line for line in text.split("Calibration of")[1].splitlines() if f"│ {name} " in line)
        for percent in (50, 90):
            error = section[f"coverage_{percent}_standard_error"]
            assert f"{section[f'coverage_{percent}']:.2f} ± {error:.2f}" in line


@pytest.mark.slow
def test_a_run_without_a_bracket_says_nothing_of_it(finished, tmp_path, capsys):
    results = vlae.run([*TINY, "evaluate.bracket.num_images=0", f"runs_dir={tmp_path}"], quiet=True)
    assert "bracket" not in results["test"]
    assert results["cost"]["bracket_seconds"] is None
    text = printed(results, capsys)
    assert "Bounds of log p(x)" not in text
    assert "Calibration" not in text


def test_the_report_has_the_calibration_among_the_details_of_a_run(finished):
    run = collect_runs(None, finished[1].parent).runs[0]
    rows = dict(metrics_in_words(run))
    for name, section in finished[0]["test"]["bracket"]["calibration"].items():
        share, error = section["coverage_90"], section["coverage_90_standard_error"]
        expected = f"{share:.2f} ± {error:.2f} of images drawn from the model"
        assert rows[f"true z in the 90 % region, {name}"] == expected


def test_a_table_has_the_calibration_of_the_run(finished, command):
    results, path = finished
    status, text, _ = command("table", "--calibration", "--format", "csv", "--runs-dir", path.parent)
    assert status == 0
    coverage = results["test"]["bracket"]["calibration"]["own"]["coverage_50"]
    assert f'[""own"", 50, {coverage}' in text
    run = collect_runs(None, path.parent).runs[0]
    assert run.number("test.bracket.calibration.fitted.rank_distance") is not None
