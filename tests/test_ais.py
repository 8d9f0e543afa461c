"""Annealed importance sampling: moves that keep what they must, weights with the right mean, a bracket of the truth."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    IMAGES,
    LATENT,
    OUTPUTS,
    PIXELS,
    forward_mode,
    linear,
    make_decoder,
    make_images,
    make_output,
    noise,
    numbers,
)
from torch.distributions import MultivariateNormal

import vlae
from vlae.config.compose import compose, validate
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.config.targets import build
from vlae.distributions.outputs import BernoulliOutput
from vlae.distributions.posteriors import standard_normal_log_prob
from vlae.errors import NonFiniteError
from vlae.estimation import ais
from vlae.estimation.ais import (
    ACCEPTANCE,
    Annealed,
    AnnealingPath,
    adapt_steps,
    anneal,
    from_prior,
    group_size,
    pilot_temperatures,
    temperatures,
)
from vlae.estimation.calibration import simulate
from vlae.estimation.estimators import arrays
from vlae.estimation.hamiltonian import LONGEST_TRAJECTORY, Joint
from vlae.experiment.prepare import test_set as images_to_score
from vlae.experiment.scoring import Scoring
from vlae.experiment.session import Session
from vlae.experiment.single_run import run_configuration
from vlae.experiment.summary import run_summary
from vlae.launching.rescore import with_other_scores
from vlae.runs.directory import RunDirectory
from vlae.system.console import Reporter
from vlae.system.interruption import Interrupted, Interruption

FIELDS = ("log_likelihood", "standard_error", "ess", "acceptance")
CLAMPED = "clamped"


def output_of(name):
    return BernoulliOutput(clamp=0.2) if name == CLAMPED else make_output(name).double()


def images_of(name, images=IMAGES, pixels=PIXELS):
    return make_images("gaussian" if name == "gaussian" else "bernoulli", images, pixels)


def annealed(output, decoder, x, *, chains=8, distributions=20, steps=3, budget=16, seed=5, **keys):
    empty = Annealed.empty(len(x), num_chains=chains, num_distributions=distributions, num_leapfrog=steps)
    return anneal(output, decoder, x, empty, memory_budget=budget, seed=seed, **keys)


def together(images, monkeypatch):
    """All these images in one group, which saves time."""
    monkeypatch.setattr(ais, "MAX_GROUP", images)
    monkeypatch.setattr(ais, "CACHED_ROWS", 10 * images)


@torch.no_grad()
def log_evidence(output, decoder, x):
    """log p(x) by the trapezoidal rule on a grid over z."""
    side = torch.linspace(-8, 8, 4001 if decoder.latent_dim == 1 else 401).double()
    z = torch.cartesian_prod(*[side] * decoder.latent_dim).view(-1, decoder.latent_dim)
    f, log_prior = decoder(z), standard_normal_log_prob(z)
    log_joint = torch.stack([output.log_prob(image[None], f[:, None])[:, 0] + log_prior for image in x])
    return torch.logsumexp(log_joint, 1) + decoder.latent_dim * torch.log(side[1] - side[0])


@torch.no_grad()
def probabilistic_pca(x, variance=0.3):
    """(output, decoder, log p(x), mean and covariance of p(z | x)) in closed form."""
    output, decoder = make_output("gaussian").double(), make_decoder((8, 6))
    output.initialise(variance)
    W, b = linear(decoder)
    s2, eye = output.log_variance.exp(), torch.eye(PIXELS).double()
    precision = W.T @ W / s2 + torch.eye(LATENT).double()
    mean = torch.linalg.solve(precision, ((x - b) @ W / s2).T).T
    log_p = MultivariateNormal(b, W @ W.T + s2 * eye).log_prob(x)
    return output, decoder, log_p, mean, precision.inverse()


def path_of(output, decoder, x, chains=5, steps=4):
    base = from_prior(output, decoder, x, output.scorer(decoder))
    return AnnealingPath(base, Joint(output, decoder, x, chains), output.scorer(decoder)(x), chains, steps)


def path_to(name, chains=5, steps=4, make_linear=False):
    output, decoder = output_of(name), make_decoder((8, 6))
    if make_linear:  # and with it smooth: a ReLU's kink breaks the order of any integrator
        linear(decoder)
    return path_of(output, decoder, images_of(name), chains, steps)


def powers_and_root(path, beta):
    return (1 - beta, beta), path.base.root(beta)


def log_density(path, beta, z):
    return beta * path.log_likelihood(z) + standard_normal_log_prob(z)


# --- Hamiltonian moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_a_trajectory_is_reversible(name):
    path, step = path_to(name), 0.1 + 0.1 * torch.arange(IMAGES).double()
    z, p = numbers(5, IMAGES, LATENT, key="z"), numbers(5, IMAGES, LATENT, key="p")
    at = powers_and_root(path, 0.7)
    there, end = path.moves.trajectory(*at, step, path.moves.state(z), p)
    back, start = path.moves.trajectory(*at, step, there, -end)
    assert (there.z - z).abs().mean() > 0.1
    torch.testing.assert_close(back.z, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(-start, p, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@forward_mode
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_trajectory_keeps_volume(name):
    """|det d(z', p') / d(z, p)| = 1 for each image."""
    path, step = path_to(name, chains=1), torch.full((IMAGES,), 0.3).double()

    def flow(both):
        z, p = both.view(IMAGES, 2, LATENT).unbind(1)
        end, p = path.moves.trajectory(*powers_and_root(path, 0.7), step, path.moves.state(z[None]), p[None])
        return torch.stack([end.z[0], p[0]], 1).flatten()

    start = numbers(2 * IMAGES * LATENT)
    jacobian = torch.func.jacfwd(flow)(start)
    assert not torch.allclose(flow(start), start, atol=0.1)
    torch.testing.assert_close(
        torch.linalg.slogdet(jacobian)[1], torch.zeros(()).double(), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_the_energy_error_is_quadratic_in_the_step(name):
    z, p = numbers(200, IMAGES, LATENT, key="z"), numbers(200, IMAGES, LATENT, key="p")
    errors = []
    for steps in (16, 32):
        path = path_to(name, chains=200, steps=steps, make_linear=True)
        step = torch.full((IMAGES,), 0.8 / steps).double()
        there, end = path.moves.trajectory(*powers_and_root(path, 0.7), step, path.moves.state(z), p)
        before = log_density(path, 0.7, z) + standard_normal_log_prob(p)
        after = log_density(path, 0.7, there.z) + standard_normal_log_prob(end)
        errors.append((after - before).abs().mean())
    assert 3.9 < errors[0] / errors[1] < 4.1


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@torch.no_grad()
def test_a_move_leaves_its_density_invariant(beta):
    """The prior (beta 0) and tempered posteriors of probabilistic PCA: mean and covariance of exact samples stay."""
    chains, x = 40_000, make_images("gaussian")
    output, decoder, _, mean, covariance = probabilistic_pca(x)
    path = path_of(output, decoder, x, chains, 2)
    precision = (1 - beta) * torch.eye(LATENT).double() + beta * covariance.inverse()
    mean = beta * torch.linalg.solve(precision, covariance.inverse() @ mean.T).T
    exact = MultivariateNormal(mean, precision_matrix=precision)
    z = mean + numbers(chains, IMAGES, LATENT) @ torch.linalg.cholesky(precision.inverse()).T
    step = torch.full((IMAGES,), 1.55).double()
    moved, acceptance = path.moves.move(
        *powers_and_root(path, beta),
        step,
        path.moves.state(z),
        numbers(chains, IMAGES, LATENT + 2, key="move"),
    )
    assert 0.2 < acceptance.mean() < 0.9
    assert (moved.z - z).abs().mean() > 0.2
    fresh = torch.linalg.solve_triangular(exact.scale_tril, (moved.z - mean).unsqueeze(-1), upper=False)
    white = fresh.squeeze(-1)
    assert white.mean(0).abs().max() < 4.5 / chains**0.5
    products = torch.einsum("cbi,cbj->bij", white, white) / chains - torch.eye(LATENT).double()
    assert products.abs().max() < 4.5 * (2 / chains) ** 0.5
    assert ((white**4).mean(0) - 3).abs().max() < 4.5 * (96 / chains) ** 0.5


@torch.no_grad()
def test_a_move_returns_the_densities_and_gradients_of_its_end():
    path = path_to("gaussian", chains=50)
    z, step = numbers(50, IMAGES, LATENT), torch.full((IMAGES,), 0.5).double()
    noise_of_move = numbers(50, IMAGES, LATENT + 2, key="m")
    moved, _ = path.moves.move(*powers_and_root(path, 1.0), step, path.moves.state(z), noise_of_move)
    stayed = (moved.z == z).all(-1)
    assert 0 < stayed.double().mean() < 1
    torch.testing.assert_close(moved, path.moves.state(moved.z))
    torch.testing.assert_close(moved.values[1], log_density(path, 1.0, moved.z))


@torch.no_grad()
def test_a_move_to_infinite_energy_is_rejected():
    path = path_to("gaussian")
    z = numbers(5, IMAGES, LATENT)
    state = path.moves.state(z)
    state = state._replace(gradients=tuple(g * math.inf for g in state.gradients))
    moved, acceptance = path.moves.move(
        *powers_and_root(path, 1.0), torch.ones(IMAGES).double(), state, numbers(5, IMAGES, LATENT + 2)
    )
    assert torch.equal(moved.z, z)
    assert torch.equal(acceptance, torch.zeros(5, IMAGES).double())


@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_momentum_covariance_is_the_tempered_laplace_precision(name):
    x = images_of(name)
    output, decoder, _, _, covariance = probabilistic_pca(x)
    output = output if name == "gaussian" else output_of(name)
    metric = from_prior(output, decoder, x, output.scorer(decoder))
    P = (metric.directions * (1 + metric.curvatures).unsqueeze(-2)) @ metric.directions.mT
    for beta in (0.0, 0.3, 1.0):
        S = metric.root(beta)
        M = torch.eye(LATENT).double() + beta * (P - torch.eye(LATENT).double())
        torch.testing.assert_close(S @ S.mT @ M, torch.eye(LATENT).double().expand(IMAGES, -1, -1))
    if name == "gaussian":
        torch.testing.assert_close(P, covariance.inverse().expand_as(P), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_adapted_steps_reach_the_target_acceptance(name):
    path = path_to(name, chains=500, steps=3)
    betas = temperatures(60)
    steps = adapt_steps(path, betas, noise(), lambda share: None)
    assert steps.shape == (61, IMAGES)
    longest = LONGEST_TRAJECTORY / 3
    assert steps.max() <= longest
    state, last = path.moves.state(numbers(500, IMAGES, LATENT)), steps[-1]
    for i in range(30):  # to the posterior, and on
        eps = numbers(500, IMAGES, LATENT + 2, key=f"{i}")
        state, acceptance = path.moves.move(*powers_and_root(path, 1.0), last, state, eps)
    found = acceptance.mean(0)
    assert torch.all((found - ACCEPTANCE).abs() < 0.1) or torch.all(last[found > ACCEPTANCE] > 0.99 * longest)


@pytest.mark.parametrize("distributions", [1, 2, 7, 1000])
def test_temperatures_rise_from_zero_to_one(distributions):
    betas = temperatures(distributions)
    assert len(betas) == distributions + 1
    assert (betas[0], betas[-1]) == (0, 1)
    assert torch.all(betas.diff() > 0)
    torch.testing.assert_close(betas, 1 - betas.flip(0))
    assert 2 <= len(pilot_temperatures(betas)) <= len(betas)


# --- the weights -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_annealing_agrees_with_probabilistic_pca():
    x = make_images("gaussian")
    output, decoder, exact, *_ = probabilistic_pca(x)
    found = annealed(output, decoder, x, chains=50, distributions=200)
    assert found.standard_error.max() < 0.06
    assert torch.all((found.log_likelihood - exact).abs() < 4.5 * found.standard_error)
    assert torch.all(found.ess > 40)


@pytest.mark.slow
@pytest.mark.parametrize("distributions", [1, 2, 4])
def test_mean_weights_are_the_likelihood(distributions):
    """Other chains, a pilot run, find the steps: no weighted chain chooses its own."""
    x = make_images("gaussian")[:2]
    output, decoder, exact, *_ = probabilistic_pca(x)
    found = annealed(output, decoder, x, chains=100_000, distributions=distributions)
    assert found.standard_error.max() < 0.1
    relative = torch.expm1(found.log_likelihood - exact)
    assert torch.all(relative.abs() < 4.5 * found.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("distributions", [1, 3])
def test_mean_reversed_weights_are_the_inverse_likelihood(distributions, monkeypatch):
    """The mean is over exact posterior samples: one for each of many copies of an image.

    The images are so noisy that the inverse weights have a variance.
    """
    together(20_000, monkeypatch)
    image = make_images("gaussian")[:1]
    output, decoder, exact, mean, covariance = probabilistic_pca(image, variance=8.0)
    z = mean + numbers(20_000, LATENT) @ torch.linalg.cholesky(covariance).T
    keys = {"chains": 2, "distributions": distributions, "steps": 2, "budget": 512}
    found = annealed(output, decoder, image.expand(20_000, -1), exact=z, **keys)
    inverse = torch.exp(exact - found.log_likelihood)
    assert inverse.std() > 0.03
    assert (inverse.mean() - 1).abs() < 4.5 * inverse.std() / 20_000**0.5


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("name", [*OUTPUTS, CLAMPED])
def test_annealing_agrees_with_quadrature(name, latent_dim):
    """ReLU decoders; and where probabilities are clamped the moves' force is not the gradient, which costs no truth."""
    output, decoder, x = output_of(name), make_decoder(latent_dim=latent_dim), images_of(name)
    found = annealed(output, decoder, x, chains=200, distributions=60)
    exact = log_evidence(output, decoder, x)
    assert found.standard_error.max() < 0.2
    assert torch.all((found.log_likelihood - exact).abs() < 4.5 * found.standard_error + 1e-4)


@pytest.mark.slow
@forward_mode
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("keys", [{"activation": "gelu"}, {"image": (1, 4, 4)}], ids=["gelu", "conv"])
def test_annealing_works_with_any_decoder(keys, name):
    pixels = math.prod(keys.get("image", (PIXELS,)))
    decoder = make_decoder(pixels=pixels, latent_dim=1, **keys)
    output, x = output_of(name), images_of(name, pixels=pixels)
    found = annealed(output, decoder, x, chains=50, distributions=20)
    exact = log_evidence(output, decoder, x)
    assert found.standard_error.max() < 0.3
    assert torch.all((found.log_likelihood - exact).abs() < 4.5 * found.standard_error + 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("name", OUTPUTS)
def test_more_distributions_narrow_the_bracket_of_the_truth(name, latent_dim, monkeypatch):
    together(300, monkeypatch)
    output, decoder = output_of(name), make_decoder(latent_dim=latent_dim)
    with torch.no_grad():
        decoder.last.weight.mul_(2)  # images that say more about z
    z, x = simulate(output, decoder, 300, seed=1)
    exact, gaps = log_evidence(output, decoder, x), []
    for distributions in (1, 30):
        keys = {"chains": 2, "distributions": distributions, "budget": 64}
        lower = exact - annealed(output, decoder, x, **keys).log_likelihood
        upper = annealed(output, decoder, x, exact=z, **keys).log_likelihood - exact
        for above in (lower, upper):
            assert above.mean() > -4 * above.std() / 300**0.5
        gaps.append(lower + upper)
    assert gaps[0].mean() > 4 * gaps[0].std() / 300**0.5
    assert gaps[1].mean() < 0.5 * gaps[0].mean()


@pytest.mark.slow
def test_annealing_in_float32_agrees_with_float64():
    output, decoder, x = output_of("gaussian"), make_decoder(), images_of("gaussian")
    double = annealed(output, decoder, x, chains=50, distributions=60)
    single = annealed(output.float(), decoder.float(), x.float(), chains=50, distributions=60)
    assert single.log_likelihood.dtype == torch.float64
    error = (double.standard_error**2 + single.standard_error**2).sqrt()
    assert torch.all((single.log_likelihood - double.log_likelihood).abs() < 4.5 * error)


def test_a_likelihood_that_is_not_finite_names_the_image():
    x = make_images("gaussian")
    x[2] = math.nan
    with pytest.raises(NonFiniteError):
        annealed(output_of("gaussian"), make_decoder(), x)


# --- groups, restarts, other images ----------------------------------------------------------------------------


def assert_same(ours, expected, images=slice(None)):
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(ours, field)[images], getattr(expected, field)[images], rtol=1e-7, atol=1e-7
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_an_images_result_is_the_same_alone_and_in_any_group(name, backwards, monkeypatch):
    output, decoder = output_of(name), make_decoder()
    z, x = simulate(output, decoder, 5, seed=0)
    exact = z if backwards else None
    expected = annealed(output, decoder, x, exact=exact)
    for images in (1, 2, 3):
        monkeypatch.setattr(ais, "MAX_GROUP", images)
        assert_same(annealed(output, decoder, x, exact=exact), expected)
    others = torch.cat([images_of(name)[:3], x[3:]])
    assert_same(annealed(output, decoder, others, exact=exact), expected, slice(3, 5))


@pytest.mark.slow
def test_another_seed_or_name_gives_another_estimate():
    output, decoder, x = output_of("gaussian"), make_decoder(), images_of("gaussian")
    first, again, seed, name = (
        annealed(output, decoder, x, **keys) for keys in ({}, {}, {"seed": 6}, {"name": "bdmc"})
    )
    assert torch.equal(first.log_likelihood, again.log_likelihood)
    for other in (seed, name):
        assert torch.all(first.log_likelihood != other.log_likelihood)


@pytest.mark.parametrize("budget", [16, 64, 512])
@pytest.mark.parametrize("chains", [2, 16, 5000])
def test_groups_keep_within_the_memory_budget_and_are_never_empty(budget, chains):
    x = torch.zeros(2, 3000)
    size = group_size(make_decoder(pixels=3000), x, chains, budget)
    assert size == 1 or size * chains * 3000 * 4 <= budget * 2**20


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [0.0, 1.5, 2.0, 3.7])
def test_annealing_resumes_from_the_last_whole_group(stop_at, monkeypatch):
    output, decoder, x = output_of("gaussian"), make_decoder(), images_of("gaussian")
    monkeypatch.setattr(ais, "NOISE_BLOCK", 10)
    expected = annealed(output, decoder, x, distributions=40)
    monkeypatch.setattr(ais, "MAX_GROUP", 1)
    partial, seen = Annealed.empty(IMAGES, num_chains=8, num_distributions=40, num_leapfrog=3), []

    def stop(images):
        seen.append(images)
        if images >= stop_at:
            raise Stopped

    with pytest.raises(Stopped):
        anneal(output, decoder, x, partial, memory_budget=16, seed=5, report=stop)
    assert partial.done == int(seen[-1])
    assert torch.isnan(partial.log_likelihood[partial.done :]).all()
    assert seen == sorted(seen)
    anneal(output, decoder, x, partial, memory_budget=16, seed=5)
    assert_same(partial, expected)


def test_annealing_changes_neither_model_nor_torch_generator():
    output, decoder, x = output_of("gaussian"), make_decoder(), images_of("gaussian")
    before, state, images = [p.clone() for p in decoder.parameters()], torch.get_rng_state(), x.clone()
    annealed(output, decoder, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, images)
    assert all(torch.equal(p, q) for p, q in zip(decoder.parameters(), before, strict=True))
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())


# --- images drawn from the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OUTPUTS, CLAMPED])
@torch.no_grad()
def test_pixels_are_drawn_with_the_density_that_scores_them(name):
    """Mean and variance; binary pixels by the probabilities of log_prob, clamped as there."""
    output, f = output_of(name), 3 * numbers(PIXELS)
    x = output.sample(f.expand(40_000, -1), numbers(40_000, PIXELS, key="sample"))
    if name == "gaussian":
        mean, variance = f, output.log_variance.exp().expand_as(f)
    else:
        assert set(x.unique().tolist()) == {0.0, 1.0}
        mean = torch.stack([output.log_prob(torch.ones(1, 1).double(), logit.view(1, 1))[0] for logit in f])
        mean = mean.exp()
        variance = mean * (1 - mean)
    assert torch.all((x.mean(0) - mean).abs() < 4.5 * (variance / 40_000).sqrt())
    torch.testing.assert_close(x.var(0), variance, rtol=0.05, atol=0.005)


@torch.no_grad()
def test_a_simulated_pair_is_a_function_of_seed_and_image():
    output, decoder = output_of("gaussian"), make_decoder()
    z, x = simulate(output, decoder, 6, seed=0)
    fewer_z, fewer_x = simulate(output, decoder, 2, seed=0)
    torch.testing.assert_close(fewer_z, z[:2], rtol=0, atol=0)
    torch.testing.assert_close(fewer_x, x[:2])
    assert not torch.equal(simulate(output, decoder, 6, seed=1)[0], z)
    residual = (x - decoder(z)) * torch.exp(-0.5 * output.log_variance)
    assert 0.6 < residual.std() < 1.4


# --- a run -----------------------------------------------------------------------------------------------------

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=1",
    "evaluate.num_samples=20", "evaluate.num_images=9", "evaluate.num_gap_images=0", "device=cpu",
)  # fmt: skip
CHECKED = (
    *("evaluate.ais.num_images=5", "evaluate.ais.num_distributions=30", "evaluate.ais.num_chains=4"),
    "evaluate.bdmc=true",
)
LOGIT = ("dataset.dequantise=true", "dataset.logit_transform=true")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """(results, run directory) of a run with both checks."""
    runs_dir = tmp_path_factory.mktemp("runs")
    results = vlae.run([*TINY, *CHECKED, *LOGIT, f"runs_dir={runs_dir}"], quiet=True)
    return results, RunDirectory(runs_dir / results["run_id"])


@pytest.mark.slow
def test_results_have_proposals_and_annealing_on_the_same_images(checked):
    results, directory = checked
    arrays = np.load(directory.path / "test_log_likelihood.npz")
    found = results["test"]["log_likelihood"]["ais"]
    own = arrays["log_likelihood"][:5]
    assert (found["num_images"], found["num_chains"], found["num_distributions"]) == (5, 4, 30)
    assert math.isclose(found["mean"], arrays["log_likelihood_ais"][:5].mean(), rel_tol=1e-12)
    assert math.isclose(found["proposals"]["own"]["mean"], own.mean(), rel_tol=1e-12)
    difference = own - arrays["log_likelihood_ais"][:5]
    beside = found["proposals"]["own"]
    assert math.isclose(beside["difference"], difference.mean(), rel_tol=1e-9)
    assert math.isclose(beside["difference_standard_error"], difference.std(ddof=1) / 5**0.5, rel_tol=1e-9)
    for name in FIELDS:
        assert np.isfinite(arrays[f"{name}_ais"]).tolist() == [True] * 5 + [False] * 4
    assert set(found["proposals"]) == {"own", "fitted"}


def test_results_place_every_proposal_in_the_bracket(checked):
    results, directory = checked
    arrays, found = np.load(directory.path / "test_log_likelihood.npz"), results["test"]["bdmc"]
    gap = arrays["bdmc_upper"] - arrays["bdmc_lower"]
    assert found["num_images"] == len(gap) == 5
    assert math.isclose(found["gap"], gap.mean(), rel_tol=1e-9)
    assert math.isclose(found["gap_standard_error"], gap.std(ddof=1) / 5**0.5, rel_tol=1e-9)
    for name in ("own", "fitted"):
        difference = arrays[f"bdmc_log_likelihood_{name}"] - arrays["bdmc_lower"]
        assert math.isclose(found["proposals"][name]["difference"], difference.mean(), rel_tol=1e-9)


def test_annealed_metrics_are_nats_of_pixels_in_0_to_1(checked):
    results, directory = checked
    found = results["test"]["log_likelihood"]["ais"]
    log_jacobian = np.load(directory.path / "test_log_likelihood.npz")["log_jacobian"][:5]
    assert math.isclose(found["mean"] - found["mean_in_model_space"], log_jacobian.mean(), rel_tol=1e-9)


def printed(results, capsys):
    from rich.console import Console

    Console(width=110, highlight=False).print(run_summary(results, Path("here")))
    return " ".join(capsys.readouterr().out.split())


def test_the_summary_shows_annealing_and_bracket(checked, capsys):
    results = json.loads((checked[1].path / "results.json").read_text())
    text, found = printed(results, capsys), results["test"]["log_likelihood"]["ais"]
    assert f"{found['mean']:.2f} ± {found['standard_error']:.2f}" in text
    assert "first 5 images" in text
    assert "5 images drawn from the model" in text
    assert f"{results['test']['bdmc']['gap']:.2f} ±" in text
    assert "4 chains" in text
    assert "30 distributions" in text


@pytest.mark.slow
def test_a_dominating_chain_causes_a_warning(checked, capsys):
    results = json.loads((checked[1].path / "results.json").read_text())
    results["test"]["log_likelihood"]["ais"]["ess_median"] = 1.2
    assert "evaluate.ais.num_distributions" in printed(results, capsys)


@pytest.mark.slow
def test_a_run_without_checks_has_no_metrics_of_them(tmp_path, capsys):
    results = vlae.run([*TINY, f"runs_dir={tmp_path}"], quiet=True)
    assert set(results["test"]["log_likelihood"]) == {"own", "fitted"}
    assert results["test"]["bdmc"] is None
    assert "Bracket" not in printed(results, capsys)


@pytest.mark.slow
def test_later_annealing_is_that_of_a_run_of_its_own(checked):
    """Without ais.num_images the bracket is that of sixteen images."""
    results, directory = checked
    changes = [[], ["evaluate.ais.num_images=0", "evaluate.ais.num_distributions=2"]]
    same, other = (with_other_scores(directory.config(), ["device=cpu", *change]) for change in changes)
    assert run_id(same) == results["run_id"]
    again = run_configuration(other, quiet=True)
    assert again["taken_over"]["training"]["run"] == results["run_id"]
    assert "ais" not in again["test"]["log_likelihood"]
    assert again["test"]["bdmc"]["num_images"] == 16
    arrays = np.load(directory.path.with_name(again["run_id"]) / "test_log_likelihood.npz")
    assert len(arrays["bdmc_lower"]) == 16


STOPS = ["annealing image", "annealing simulated image", "annealing simulated image back"]


@pytest.mark.slow
@pytest.mark.parametrize("part", STOPS)
def test_a_check_stopped_by_a_signal_ends_with_the_same_metrics(part, checked, monkeypatch):
    directory = checked[1]
    trained = vlae.load(str(directory.path))
    cfg = trained.config
    x = images_to_score(trained.preprocess, build(cfg.dataset), cfg)[:9]
    monkeypatch.setattr(ais, "MAX_GROUP", 2)
    monkeypatch.setattr(ais, "NOISE_BLOCK", 50)

    def run(heartbeat):
        with Interruption() as interruption, Reporter(quiet=True) as reporter:
            session = Session(directory, SimpleNamespace(heartbeat=heartbeat), interruption, reporter)
            return Scoring(session, trained, cfg, x).run()

    def stop(progress):
        if progress["doing"] == part and progress["image"] >= 2:
            signal.raise_signal(signal.SIGTERM)

    for file in (directory.path / "checkpoints").glob("*evaluation*"):
        file.unlink()
    expected = run(lambda progress: None)
    for file in (directory.path / "checkpoints").glob("*evaluation*"):
        file.unlink()
    with pytest.raises(Interrupted):
        run(stop)
    seen = []
    found = run(seen.append)
    images = [progress["image"] for progress in seen if progress["doing"] == part]
    assert not any(image < 2 for image in images), "what was done is not done again"
    for key in ("ais", "bdmc.lower", "bdmc.upper"):
        for field in FIELDS:
            assert torch.equal(getattr(found.results[key], field), getattr(expected.results[key], field))
    lower = arrays(found.results, found.subject)["bdmc_lower"]
    _, simulated = simulate(trained.model.output, trained.decoder, 5, cfg.seed)
    log_jacobian = trained.preprocess.unit_log_jacobian(simulated)
    torch.testing.assert_close(lower - found.results["bdmc.lower"].log_likelihood, log_jacobian)


# --- keys ------------------------------------------------------------------------------------------------------


def problems_of(*overrides):
    with pytest.raises(ConfigError) as caught:
        validate(compose(overrides))
    return caught.value.problems


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("evaluate.ais.num_images=-1", "evaluate.ais.num_images: expected 0 or more, got -1"),
        ("evaluate.ais.num_chains=1", "evaluate.ais.num_chains: expected 2 or more, got 1"),
        (
            "evaluate.ais.num_leapfrog=two",
            "evaluate.ais.num_leapfrog: expected a whole number, got 'two'",
        ),
        ("evaluate.ais=7", "evaluate.ais: expected a section of keys, got 7"),
        ("evaluate.bdmc=1", "evaluate.bdmc: expected true or false, got 1"),
        (
            "evaluate.ais.num_image=3",
            "evaluate.ais.num_image: unknown key; did you mean evaluate.ais.num_images?",
        ),
        ("+evaluate.ais.foo=3", "evaluate.ais.foo: unknown key (keys of evaluate.ais: num_images"),
        ("~evaluate.ais.num_chains", "~evaluate.ais.num_chains: a run states every key"),
    ],
)
def test_a_problem_of_a_nested_key_names_the_whole_key(override, text):
    [problem] = problems_of(override)
    assert problem.startswith(text)


def test_nested_keys_of_a_frozen_run_can_be_changed():
    container = compose()
    new = with_other_scores(container, ["evaluate.ais.num_images=20", "evaluate.bdmc=true", "device=cpu"])
    assert validate(new).evaluate.ais.num_images == 20
    assert validate(new).evaluate.bdmc
    with pytest.raises(ConfigError) as caught:
        with_other_scores(container, ["evaluate.ais.num_image=20"])
    assert "did you mean evaluate.ais.num_images?" in caught.value.problems[0]


@pytest.mark.slow
def test_a_run_from_before_the_checks_keeps_its_id():
    container = compose()
    old = {
        **container,
        "evaluate": {k: v for k, v in container["evaluate"].items() if k not in ("ais", "bdmc")},
    }
    assert run_id(old) == run_id(container)
    evaluate = validate(old).evaluate
    assert (evaluate.ais.num_images, evaluate.bdmc) == (0, False)
    ids = {
        run_id(compose(overrides))
        for overrides in ([], ["evaluate.ais.num_images=1"], ["evaluate.bdmc=true"])
    }
    assert len(ids) == 3


def test_numbers_of_images_and_chains_are_checked_together():
    problems = problems_of("evaluate.ais.num_images=x", "evaluate.ais.num_chains=0", "trainer.epochs=0")
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(
        ["evaluate.ais.num_images", "evaluate.ais.num_chains", "trainer.epochs"]
    )
