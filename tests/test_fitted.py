"""The proposal fitted against closed forms and quadrature: the right figure, from the decoder, image and seed alone."""

import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

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
    make_model,
    make_output,
    numbers,
)
from folded import folded, folded_output, log_evidence, log_sides, mode
from scipy.stats import chisquare, kstest
from torch import nn
from torch.distributions import MultivariateNormal

from vlae.distributions.posteriors import standard_normal_log_prob
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.errors import NonFiniteError
from vlae.estimation import chains
from vlae.estimation.annealed import AnnealedProposal
from vlae.estimation.calibration import simulate
from vlae.estimation.chains import CHAINS, DrawSums, fit_components
from vlae.estimation.estimators.importance import Chunks, Evaluation, evaluate
from vlae.estimation.log_weights import draw_log_weights
from vlae.estimation.modes import find_components
from vlae.estimation.pareto import unreliable_above
from vlae.estimation.proposals import fitted
from vlae.estimation.proposals.fitted import FIRST, LONGER, propose_from_decoder
from vlae.estimation.proposed import DecoderGroup
from vlae.models.backbone import Backbone
from vlae.models.iaf import IAF
from vlae.models.savae import SAVAE, OriginalSAVAE
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.nn.networks import Decoder, initialise
from vlae.seeding import generator

FOLDS = ((1.0, 0.9), (1.0, 0.8))
GROUP = 4
"""Images at once, where that matters: small, to save time."""
SURE = 1e-4
"""p of a test below which the law is broken."""


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(fitted, "GROUP", GROUP)


def model_of(decoder, output, kind=VAE, **keys):
    """A model with this decoder."""
    pixels = decoder(torch.zeros(1, decoder.latent_dim, dtype=next(decoder.parameters()).dtype)).shape[-1]
    backbone = Backbone(latent_dim=decoder.latent_dim, hidden_dims=(5,), pixels=pixels, output=output)
    model = kind(backbone, **keys)
    initialise(model, "paper", generator("cpu", "model", kind.__name__))
    model = model.to(next(decoder.parameters()).dtype)
    model.decoder = decoder
    return model


def scored(model, x, proposal="fitted", *, num_samples=2000, memory_budget=64, seed=5, **keys):
    how = {"num_samples": num_samples, "memory_budget": memory_budget, "seed": seed}
    return evaluate(model, x, proposal=proposal, **how, **keys)


def group_of(output, decoder, x, seed=5):
    scorer = output.scorer(decoder)
    return DecoderGroup(output, decoder, scorer, x, range(len(x)), seed, "fitted", at_once=3000)


def figures(evaluation):
    """All numbers but the times: equal, if they are, to the last bit."""
    return {
        f.name: getattr(evaluation, f.name).numpy().tobytes()
        for f in fields(Evaluation)
        if isinstance(getattr(evaluation, f.name), torch.Tensor) and not f.name.endswith("seconds")
    }


def assert_close(ours, expected, images=slice(None)):
    for name in figures(expected):
        a, b = getattr(ours, name)[images], getattr(expected, name)[images]
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, equal_nan=True)


def assert_right(evaluation, log_p):
    """The truth is within the stated errors: of each image, and of the mean."""
    error = evaluation.log_likelihood - log_p
    assert torch.all(error.abs() < 4.5 * evaluation.monte_carlo_error + 1e-4), error
    assert abs(error.mean()) < evaluation.estimator_error.total + 1e-4


@torch.no_grad()
def linear_model(images):
    """(output, decoder, x, log p(x), p(z | x)) of probabilistic PCA."""
    output, decoder, x = (
        make_output("gaussian").double(),
        make_decoder((8, 6)),
        make_images("gaussian", images),
    )
    output.initialise(0.3)
    W, b = linear(decoder)
    s2, eye = output.log_variance.exp(), torch.eye(PIXELS).double()
    P = W.T @ W / s2 + torch.eye(LATENT).double()
    mean = torch.linalg.solve(P, ((x - b) @ W / s2).T).T
    log_p = MultivariateNormal(b, W @ W.T + s2 * eye).log_prob(x)
    return output, decoder, x, log_p, MultivariateNormal(mean, precision_matrix=P)


@torch.no_grad()
def quadrature(output, decoder, x):
    """log p(x) by the trapezoidal rule on a grid over z."""
    side = torch.linspace(-8, 8, 4001 if decoder.latent_dim == 1 else 801).double()
    z = torch.cartesian_prod(*[side] * decoder.latent_dim).view(-1, decoder.latent_dim)
    f, log_prior = decoder(z), standard_normal_log_prob(z)
    log_joint = torch.stack([output.log_prob(image[None], f[:, None])[:, 0] + log_prior for image in x])
    return torch.logsumexp(log_joint, 1) + decoder.latent_dim * torch.log(side[1] - side[0])


# --- the figure ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_log_weights_of_a_linear_decoder_are_log_p_plus_the_ratio_of_two_known_densities():
    """log w = log p(x) + log p(z | x) - log q(z): constant, if q were p(z | x)."""
    output, decoder, x, log_p, exact = linear_model(IMAGES)
    (proposed,) = propose_from_decoder(group_of(output, decoder, x))
    z, log_q = proposed.q.rsample_with_log_prob(numbers(50, IMAGES, proposed.q.noise_dim, key="eps"))
    log_w = output.scorer(decoder)(x)(z) + standard_normal_log_prob(z) - log_q
    expected = log_p + exact.log_prob(z) - proposed.q.log_prob(z)
    torch.testing.assert_close(log_w, expected, rtol=0, atol=1e-9)


def test_the_figure_of_a_linear_decoder_is_the_closed_form():
    output, decoder, x, log_p, _ = linear_model(40)
    found = scored(model_of(decoder, output), x)
    assert_right(found, log_p)
    assert found.k_hat.max() < unreliable_above(2000)
    assert found.ess.min() > 0.8 * 2000
    assert torch.equal(found.components, torch.ones(40).double())
    assert found.longer_seconds.isnan().all()
    assert found.annealed_seconds.isnan().all()


def test_the_fit_to_a_linear_decoder_has_the_moments_of_its_posterior():
    """The more draws, the nearer; log_evidence is log p(x) + KL(q || p), whose mean over draws needs p = q at last."""
    output, decoder, x, log_p, exact = linear_model(IMAGES)
    modes = find_components(output, decoder, x, x.new_zeros(1, IMAGES, LATENT), 1, output.scorer(decoder))
    sources = [generator("cpu", "chains", i) for i in range(IMAGES)]
    fits = fit_components(output, decoder, x, modes, sources, 5, 60)
    assert fits.effective.min() > 5 * LATENT
    white = torch.linalg.solve_triangular(exact.scale_tril, (fits.mu - exact.mean).unsqueeze(-1), upper=False)
    assert white.abs().max() < 4.5 / fits.effective.min() ** 0.5
    ratio = exact.scale_tril.mT @ fits.cholesky @ fits.cholesky.mT @ exact.scale_tril
    assert (ratio - torch.eye(LATENT).double()).abs().max() < 4.5 * (2 / fits.effective.min()) ** 0.5
    assert (fits.log_evidence - log_p).abs().max() < 0.2


def test_several_known_modes():
    output, decoder = folded_output(), folded(FOLDS)
    x = torch.tensor([[2.0, 1.8], [0.9, 1.5], [1.0, -1.0], [0.1, 0.3], [-0.2, 1.2]]).double()
    found = scored(model_of(decoder, output), x)
    assert_right(found, log_evidence(FOLDS, x))
    assert found.components[:2].tolist() == [4, 4]


@torch.no_grad()
def test_a_mode_that_the_encoder_does_not_lead_to_is_found():
    """A search that begins at the own q stays on its side of the fold; laplace is too low by what the other side
    contributes, and its k-hat does not see this."""
    folds, output = ((1.0, 0.8),), folded_output()
    x = torch.tensor([[1.0], [1.5], [2.0]]).double()
    model = model_of(folded(folds), output)
    for parameter in model.amortised.parameters():
        parameter.zero_()
    model.amortised.mu.bias.fill_(mode(-0.8, 1.5))
    low, right, log_p = scored(model, x, "laplace"), scored(model, x), log_evidence(folds, x)
    lost = log_p - log_sides(folds, x)[:, 0, 1]
    assert lost.min() > 0.7, "nothing is lost: no test"
    assert low.k_hat.max() < 0.7
    torch.testing.assert_close(log_p - low.log_likelihood, lost, rtol=0, atol=0.05)
    assert_right(right, log_p)
    assert right.components.tolist() == [2, 2, 2]


SMALL = [
    pytest.param({"latent_dim": latent_dim, "activation": activation}, id=f"{activation}-{latent_dim}")
    for latent_dim in (1, 2)
    for activation in ("relu", "gelu", "softplus", "tanh")
] + [pytest.param({"latent_dim": 2, "image": (1, 5, 4)}, id="conv-2")]


@torch.no_grad()
def sharpen(decoder):
    """Posteriors far from Gaussian, some with several modes."""
    for parameter in decoder.parameters():
        parameter.mul_(1.5)


@pytest.mark.slow
@forward_mode
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("keys", SMALL)
def test_the_figure_agrees_with_quadrature(keys, name):
    decoder = make_decoder((8, 8), math.prod(keys.get("image", (12,))), **keys)
    output = make_output(name).double()
    sharpen(decoder)
    _, x = simulate(output, decoder, 12, seed=2)
    assert_right(scored(model_of(decoder, output), x, num_samples=4000), quadrature(output, decoder, x))


@pytest.mark.slow
@forward_mode
@torch.no_grad()
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_decoder_of_other_units_agrees_with_quadrature(name):
    """Any body will do: ELU units, which no configuration has."""
    body = nn.Sequential(nn.Linear(2, 10), nn.ELU(), nn.Linear(10, 10), nn.ELU())
    decoder, output = Decoder(2, body, nn.Linear(10, 20)), make_output(name).double()
    initialise(decoder, "paper", generator("cpu", "elu"))
    decoder = decoder.double()
    sharpen(decoder)
    _, x = simulate(output, decoder, 12, seed=3)
    assert_right(scored(model_of(decoder, output), x, num_samples=4000), quadrature(output, decoder, x))


# --- chains ----------------------------------------------------------------------------------------------------


class Recorded(DrawSums):
    """Keeps the chains' last positions, in the coordinates u = L'(z - mode)."""

    def __init__(self, components):
        super().__init__(components)
        self.last = components.z.new_full((CHAINS, *components.z.shape), math.nan)
        type(self).newest = self

    def add(self, rows, state):
        super().add(rows, state)
        self.last[:, rows] = state.z


def ends_of_chains(output, decoder, x, monkeypatch, moves=60):
    """Where the chains of each image end, [chains, images, latent], as the proposal runs them."""
    monkeypatch.setattr(chains, "DrawSums", Recorded)
    starts = x.new_zeros(1, len(x), decoder.latent_dim)
    modes = find_components(output, decoder, x, starts, 1, output.scorer(decoder))
    sources = [generator("cpu", "chains", i) for i in range(len(x))]
    fit_components(output, decoder, x, modes, sources, 5, moves)
    return Recorded.newest.last


def assert_uniform_ranks(z, draws):
    """The rank of z [images, latent] among draws [chains, images, latent] of the same distribution is uniform."""
    ranks = (draws < z).sum(0)
    for dimension in range(z.shape[-1]):
        assert chisquare(ranks[:, dimension].bincount(minlength=len(draws) + 1).numpy()).pvalue > SURE


@torch.no_grad()
def test_chains_leave_the_posterior_of_a_linear_decoder_invariant(monkeypatch):
    """They start with exact draws of it. Beside ranks, all whitened ends are standard normal."""
    output, decoder, x, _, exact = linear_model(600)
    ends = ends_of_chains(output, decoder, x, monkeypatch)
    white = torch.linalg.solve_triangular(
        exact.scale_tril, (ends - exact.mean).unsqueeze(-1), upper=False
    ).squeeze(-1)
    assert_uniform_ranks(exact.mean + numbers(600, LATENT, key="z") @ exact.scale_tril.mT[0], ends)
    assert kstest(white.flatten().numpy(), "norm").pvalue > SURE
    assert abs(white.square().mean() - 1) < 4.5 * (2 / white.numel()) ** 0.5


@pytest.mark.slow
@forward_mode
@torch.no_grad()
@pytest.mark.parametrize("name", OUTPUTS)
def test_chains_reach_the_posterior_of_a_bent_decoder(name, monkeypatch):
    """z of a simulated pair (z, x) is a draw of p(z | x): its rank among the chains of x is uniform."""
    decoder, output = make_decoder((8, 6), latent_dim=2, activation="softplus"), make_output(name).double()
    z, x = simulate(output, decoder, 800, seed=4)
    assert_uniform_ranks(z, ends_of_chains(output, decoder, x, monkeypatch))


# --- of the decoder, the image and the seed alone --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_models_with_the_same_decoder_have_the_same_figures_to_the_last_bit(name, small_groups):
    """Other kinds, other widths, and inference that depends on the batch; in float32, where rounding shows."""
    torch.manual_seed(1)
    decoder, output = make_decoder((8, 6), pixels=40).float(), make_output(name).float()
    x = make_images(name, GROUP + 3, 40).float()
    models = [model_of(decoder, output, kind) for kind in (VAE, VLAE, SAVAE, OriginalSAVAE)]
    models.append(model_of(decoder, output, IAF, flow_hidden_dims=(50,)))
    wide = make_model(VAE, name, hidden_dims=(90, 70), pixels=40).float()
    wide.decoder, wide.output = decoder, output
    first, *others = (figures(scored(model, x, num_samples=150)) for model in (*models, wide))
    for other in others:
        assert other == first
    own = [scored(model, x, "own", num_samples=150).log_likelihood for model in models]
    assert not torch.equal(own[0], own[1]), "the same encoders: no test"


def test_another_seed_gives_other_figures():
    output, decoder, x, _, _ = linear_model(IMAGES)
    model = model_of(decoder, output)
    assert (scored(model, x, seed=1).log_likelihood != scored(model, x, seed=2).log_likelihood).all()


# --- chunks, restarts, more images -----------------------------------------------------------------------------


def bent(images, name="gaussian", pixels=40):
    torch.manual_seed(1)
    decoder, output = make_decoder((8, 6), pixels=pixels), make_output(name).double()
    return model_of(decoder, output), make_images(name, images, pixels)


@pytest.mark.slow
def test_memory_budget_never_changes_a_figure(small_groups):
    model, x = bent(GROUP + 2, pixels=784)
    assert_close(*(scored(model, x, num_samples=150, memory_budget=budget) for budget in (16, 512)))


@pytest.mark.parametrize("budget", [1, 16, 100, 10_000])
@pytest.mark.parametrize("samples", [1, 50, 5000])
def test_chunks_have_whole_groups_and_activations_within_the_memory_budget(budget, samples):
    """The width of the encoder does not matter, that of the decoder does."""
    wide = make_model(VAE, "gaussian", hidden_dims=(10_000, 6), pixels=900)
    narrow = model_of(make_decoder((8, 6), 900), make_output("gaussian"))
    x = torch.zeros(2, 900)
    wide.decoder = narrow.decoder
    chunks, other = (Chunks.for_proposal("fitted", budget, model, samples, x) for model in (wide, narrow))
    assert chunks == other
    assert chunks.images == fitted.GROUP
    assert 1 <= chunks.samples <= samples
    assert (
        chunks.images * chunks.samples * 900 * x.element_size() <= budget * 2**20 / 4 or chunks.samples == 1
    )


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_stopped_evaluation_resumes_with_the_same_figures(small_groups):
    model, x = bent(2 * GROUP + 5)
    model, x = model.float(), x.float()
    partial = Evaluation.empty(len(x))

    def stop(images):
        if images >= GROUP + 1:
            raise Stopped

    with pytest.raises(Stopped):
        scored(model, x, num_samples=100, result=partial, report=stop)
    assert GROUP <= partial.done < len(x)
    resumed = scored(model, x, num_samples=100, memory_budget=512, result=partial)
    assert figures(resumed) == figures(scored(model, x, num_samples=100, memory_budget=512))


@pytest.mark.slow
def test_more_images_take_over_the_first_ones_in_whole_groups():
    """Of 150 images the last 22 were a group of their own."""
    model, x = bent(200)
    model, x = model.float(), x.float()
    first = scored(model, x[:150], num_samples=100)
    started = Evaluation.empty(200).with_first_of(first)
    assert started.done == 128
    assert figures(scored(model, x, num_samples=100, result=started)) == figures(
        scored(model, x, num_samples=100)
    )


THREADS = """
import sys, torch
from test_fitted import make_decoder, make_images, make_output, model_of, scored
torch.set_num_threads(int(sys.argv[1]))
decoder, output, x = make_decoder((100, 100), 784, 5), make_output("gaussian"), make_images("gaussian", 12, 784)
found = [
    scored(model_of(decoder.to(dtype), output.to(dtype)), x.to(dtype), num_samples=300)
    for dtype in (torch.float32, torch.float64)
]
torch.save(found, sys.argv[2])
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_figures_by_rounding_alone(tmp_path):
    """Sums of large layers are then in another order. Chains magnify that in float32: most images change by rounding,
    one where a move is accepted that was refused by as much as its error allows."""
    (single, double), other = (of_threads(n, tmp_path / f"{n}.pt") for n in (1, 2))
    assert_close(other[1], double)
    difference = (other[0].log_likelihood - single.log_likelihood).abs()
    error = single.monte_carlo_error
    assert (difference < 0.1 * error).double().mean() > 0.5
    assert torch.all(difference < 5 * error)


def of_threads(number, path):
    """What THREADS finds with that number of threads."""
    command = [sys.executable, "-c", THREADS, str(number), str(path)]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)
    return torch.load(path, weights_only=False)


# --- the mean weight is the likelihood, whatever the chains did -------------------------------------------------


def assert_unbiased(log_w, log_p):
    """The mean of w / p(x) is 1; log_w: of independent samples or of means over as many samples each."""
    ratio = (log_w - log_p).exp().flatten()
    assert len(ratio) > 100
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / len(ratio) ** 0.5
    assert ratio.std() / len(ratio) ** 0.5 < 0.05, "no test"


def one_image_many_times(times, number=0):
    """A model of two latent dimensions, copies of an image, each with noise of its own, and log p(x)."""
    decoder, output = make_decoder((8, 8), 6, 2, "tanh"), make_output("gaussian").double()
    x = simulate(output, decoder, number + 1, seed=8)[1][number:].expand(times, -1)
    return model_of(decoder, output), x, quadrature(output, decoder, x[:1])


def shifted(fits):
    """Away from the posterior, and narrower than it."""
    return replace(fits, mu=fits.mu + 0.4, cholesky=1.1 * fits.cholesky)


@pytest.mark.slow
@forward_mode
@pytest.mark.parametrize("chains_are", ["right", "stopped at once", "wrong"])
def test_the_mean_weight_is_unbiased(chains_are, monkeypatch):
    model, x, log_p = one_image_many_times(120)
    if chains_are == "stopped at once":
        monkeypatch.setattr(chains, "BURN_IN", 0)
        monkeypatch.setattr(chains, "BLOCK", 1)
        monkeypatch.setattr(fitted, "FIRST", replace(FIRST, moves=1))
    elif chains_are == "wrong":
        monkeypatch.setattr(fitted, "fit_components", lambda *how: shifted(fit_components(*how)))
    found = scored(model, x, num_samples=60)
    assert found.annealed_seconds.isnan().all() or chains_are != "right"
    assert_unbiased(found.log_likelihood, log_p)


def test_the_samples_of_the_pilot_are_not_averaged(monkeypatch):
    """No pilot has noise from a source of the samples, nor a source that another effort has used."""
    output, decoder, x, _, _ = linear_model(IMAGES)
    efforts = {"fit": IMAGES, "longer": 3, "annealed": 1}
    seeds, original = [], fitted.draw_log_weights

    def recorded(q, scorer, x, sources, *how):
        seeds.extend(source.initial_seed() for source in sources)
        return original(q, scorer, x, sources, *how)

    monkeypatch.setattr(fitted, "draw_log_weights", recorded)
    heavy(monkeypatch, fit=(1, 2, 3), longer=(2,))
    with torch.no_grad():
        proposed = propose_from_decoder(group_of(output, decoder, x))
    seeds += [source.initial_seed() for part in proposed for source in part.sources]
    assert len(seeds) == sum(efforts.values()) + IMAGES
    assert len(set(seeds)) == len(seeds)


def test_the_size_of_the_pilot_changes_no_figure(monkeypatch):
    model, x = bent(5)
    expected = scored(model, x)
    monkeypatch.setattr(fitted, "FIRST", replace(FIRST, pilot=317))
    assert_close(scored(model, x), expected)


# --- more effort for some images ---------------------------------------------------------------------------------


def heavy(monkeypatch, *, fit=(), longer=()):
    """These images of the test set count as heavy-tailed after an effort; the fits and their pilots stay."""
    original, where = fitted.judge, {FIRST.name: fit, LONGER.name: longer}

    def judge(group, q, effort):
        assert original(group, q, effort).shape == (len(group.x),)
        return torch.tensor([position in where[effort.name] for position in group.positions])

    monkeypatch.setattr(fitted, "judge", judge)


def test_heavy_tails_get_the_longer_fit_and_then_annealed_samples(monkeypatch):
    output, decoder, x, log_p, _ = linear_model(6)
    model = model_of(decoder, output)
    before = scored(model, x, num_samples=8000)
    heavy(monkeypatch, fit=(1, 3, 4), longer=(3,))
    found = scored(model, x, num_samples=8000)
    others = [0, 2, 5]
    assert_close(found, before, others)
    assert (~found.longer_seconds.isnan()).nonzero().flatten().tolist() == [1, 3, 4]
    assert (~found.annealed_seconds.isnan()).nonzero().flatten().tolist() == [3]
    assert found.fit_seconds.min() > 0
    assert found.samples.tolist() == [8000, 8000, 8000, 400, 8000, 8000]
    assert (found.log_likelihood != before.log_likelihood)[[1, 3, 4]].all()
    assert_right(found, log_p)


def test_a_longer_fit_knows_the_modes_that_the_first_has_found(monkeypatch):
    """Its own searches may miss one: then the figure would be lower than without them."""
    output, decoder, x, *_ = linear_model(6)
    group, seen = group_of(output, decoder, x), {}
    original = fitted.find_components

    def recorded(output, decoder, x, starts, *how):
        seen[len(starts)] = starts
        return original(output, decoder, x, starts, *how)

    heavy(monkeypatch, fit=(1, 4))
    monkeypatch.setattr(fitted, "find_components", recorded)
    with torch.no_grad():
        propose_from_decoder(group)
        q = fitted.fit(group, FIRST)
    *_, longer = seen.values()
    assert torch.allclose(longer[-1], q.mu[[1, 4], 0])


@pytest.mark.parametrize("enough", [0, fitted.ANNEALED_PILOT + 1])
def test_an_annealed_image_whose_pilot_is_poor_is_annealed_in_more_steps(enough, monkeypatch):
    """Others keep their figures."""
    output, decoder, x, log_p, _ = linear_model(5)
    heavy(monkeypatch, fit=(1, 3), longer=(1, 3))
    before = scored(model_of(decoder, output), x, num_samples=8000)
    monkeypatch.setattr(fitted, "ANNEALED_EFFECTIVE", enough)
    monkeypatch.setattr(fitted, "MORE_DISTRIBUTIONS", 128)
    found = scored(model_of(decoder, output), x, num_samples=8000)
    assert (found.log_likelihood == before.log_likelihood).tolist() == [True, enough == 0] * 2 + [True]
    assert ((found.log_likelihood - log_p).abs() < 4.5 * found.monte_carlo_error + 1e-4).all()


@pytest.mark.slow
def test_an_image_has_its_own_noise_in_every_effort(monkeypatch):
    """What is left of a group keeps its positions: the figures of an image are those of it among others."""
    output, decoder, x, _, _ = linear_model(6)
    model = model_of(decoder, output)
    heavy(monkeypatch, fit=(1, 3, 4), longer=(3,))
    some = scored(model, x)
    heavy(monkeypatch, fit=range(6), longer=(0, 3))
    all_of_them = scored(model, x)
    assert_close(some, all_of_them, [1, 3, 4])


def test_a_tail_that_is_heavy_is_seen():
    """A proposal that is too narrow for most images; one whose tail a pilot of its few near samples does not show."""
    output, decoder, x, _, exact = linear_model(8)
    group = group_of(output, decoder, x)
    L = torch.linalg.cholesky(exact.precision_matrix).expand(8, LATENT, LATENT)
    for scale, shift, seen in ((1.0, 0.0, False), (2.5, 0.0, True), (100.0, 0.0, True), (0.5, 3.0, True)):
        mu = exact.mean[:, None] + shift
        q = StudentTMixture(torch.zeros(8, 1).double(), mu, (scale * L)[:, None], 10)
        with torch.no_grad():
            assert fitted.judge(group, q, FIRST).double().mean().round() == seen


@pytest.mark.slow
@forward_mode
@torch.no_grad()
@pytest.mark.parametrize("distributions", [2, 16])
def test_the_mean_weight_of_annealed_samples_is_the_likelihood(distributions):
    """From a proposal that is misplaced and too narrow; with more distributions the weights are more equal."""
    model, x, log_p = one_image_many_times(4)
    mu = torch.tensor([0.5, -0.5]).double().expand(4, 1, 2)
    q = StudentTMixture(torch.zeros(4, 1).double(), mu, 1.5 * torch.eye(2).double().expand(4, 1, 2, 2), 10)
    group = group_of(model.output, model.decoder, x)
    proposal, sources = AnnealedProposal(group, q, distributions), group.sources("samples")
    z, log_q = proposal.rsample_with_log_prob(
        torch.stack(
            [torch.randn(1000, proposal.noise_dim, generator=source).double() for source in sources], 1
        )
    )
    log_w = model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) - log_q
    assert_unbiased(log_w, log_p)
    weights = draw_log_weights(proposal, group.scorer, x, group.sources("more"), 1000, 1000)
    assert (weights.log_mean - log_p).abs().max() < 4.5 * weights.standard_error.max()


@torch.no_grad()
def test_ends_of_annealed_chains_are_nearly_exact_draws():
    """From the posterior itself: chains leave every density on the way invariant, and weights are nearly equal."""
    output, decoder, x, log_p, exact = linear_model(IMAGES)
    L = torch.linalg.cholesky(exact.precision_matrix).expand(IMAGES, LATENT, LATENT)
    q = StudentTMixture(torch.zeros(IMAGES, 1).double(), exact.mean[:, None], L[:, None], 10)
    proposal = AnnealedProposal(group_of(output, decoder, x), q, fitted.DISTRIBUTIONS)
    z, log_q = proposal.rsample_with_log_prob(numbers(2000, IMAGES, proposal.noise_dim, key="eps"))
    log_w = output.log_prob(x, decoder(z)) + standard_normal_log_prob(z) - log_q
    assert log_w.std(0).max() < 0.3
    assert_unbiased(log_w, log_p)
    white = torch.linalg.solve_triangular(
        exact.scale_tril, (z - exact.mean).unsqueeze(-1), upper=False
    ).squeeze(-1)
    weights = (log_w - log_p).exp().unsqueeze(-1)
    assert (weights * white).mean((0, 1)).abs().max() < 4.5 / (2000 * IMAGES) ** 0.5
    assert ((weights * white.square()).mean((0, 1)) - 1).abs().max() < 4.5 * (2 / 2000 / IMAGES) ** 0.5 * 1.2


def test_annealed_samples_are_enough_for_their_error(monkeypatch):
    """One image whose error is unknown would make that of the mean unknown."""
    output, decoder, x, _, _ = linear_model(2)
    heavy(monkeypatch, fit=(1,), longer=(1,))
    found = scored(model_of(decoder, output), x, num_samples=100)
    assert found.samples.tolist() == [100, 16]
    assert found.estimator_error.total is not None


@pytest.mark.slow
def test_annealed_samples_take_all_of_theirs_where_others_have_a_target(monkeypatch):
    output, decoder, x, log_p, _ = linear_model(4)
    heavy(monkeypatch, fit=range(4), longer=(1, 2, 3))
    found = scored(model_of(decoder, output), x, num_samples=5000, target_standard_error=0.008)
    assert found.samples[0] < 5000
    assert found.samples[1:].tolist() == [5000 // fitted.ANNEALED_SAMPLES_OF] * 3
    assert_right(found, log_p)


# --- what is not a number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("where", ["pixel", "weight"])
def test_what_is_not_finite_is_an_error_that_names_the_images(where, name):
    model, x = bent(IMAGES, name)
    with torch.no_grad():
        (x[2] if where == "pixel" else model.decoder.last.weight)[0] = math.nan
    with pytest.raises(NonFiniteError, match=rf"fitted .*test images 0 to {IMAGES - 1}: .* not finite"):
        scored(model, x)
