"""The local quadratic model of log p(x | z) and its short cuts against brute force."""

import pytest
import torch
from conftest import (
    IMAGES,
    LATENT,
    NETWORKS,
    OUTPUTS,
    PIXELS,
    assert_same_gradients,
    forward_mode,
    linear,
    make_decoder,
    make_images,
    make_output,
    numbers,
    pixels_of,
    scalar_gradients,
)

from vlae.distributions.likelihood import PixelLikelihood, SharedGram, WeightedGram
from vlae.distributions.outputs import BernoulliOutput
from vlae.distributions.posteriors import standard_normal_log_prob

pytestmark = forward_mode

DEPTHS = [(6,), (6, 5), (6, 5, 9)]


def set_up(name, hidden_dims=(6, 5), pixels=PIXELS):
    """(output, decoder, images, one z per image)."""
    output = make_output(name).double()
    return (
        output,
        make_decoder(hidden_dims, pixels),
        make_images(name, pixels=pixels),
        numbers(IMAGES, LATENT),
    )


def log_joint(output, decoder, x):
    """z -> log p(x, z) of one image, for torch.func."""
    return lambda z: output.log_prob(x[None], decoder(z[None]))[0] + standard_normal_log_prob(z)


def explicit(output, decoder, z):
    """J by automatic differentiation, and V from the output distribution's own formula."""
    J, f = torch.func.vmap(torch.func.jacfwd(decoder))(z), decoder(z)
    p = torch.sigmoid(f)
    return J, p * (1 - p) if output.support == "binary" else torch.exp(-output.log_variance).expand_as(f)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_gradient_matches_automatic_differentiation(name, hidden_dims):
    output, decoder, x, z = set_up(name, hidden_dims)
    ours = output.likelihood(decoder, x).gradient(decoder.linearise(z))
    z = z.requires_grad_()
    (expected,) = torch.autograd.grad(output.log_prob(x, decoder(z)).sum(), z)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_value_and_gradient_are_those_of_the_log_likelihood(name, hidden_dims):
    output, decoder, x, z = set_up(name, hidden_dims)
    likelihood, at = output.likelihood(decoder, x), decoder.linearise(z)
    value, gradient = likelihood.value_and_gradient(at)
    torch.testing.assert_close(value, output.log_prob(x, decoder(z)), rtol=1e-11, atol=1e-11)
    assert torch.equal(gradient, likelihood.gradient(at))
    two = torch.tensor([2, 0])
    fewer, _ = likelihood.select(two).value_and_gradient(decoder.linearise(z[two]))
    torch.testing.assert_close(fewer, value[two], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_precision_is_the_explicit_jvj_plus_the_identity(name, hidden_dims):
    output, decoder, x, z = set_up(name, hidden_dims)
    J, V = explicit(output, decoder, z)
    expected = torch.einsum("bpi,bp,bpj->bij", J, V, J) + torch.eye(LATENT).double()
    ours = output.likelihood(decoder, x).precision(decoder.linearise(z))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("make_linear", [True, False], ids=["linear", "relu"])
def test_precision_is_the_hessian_of_minus_the_log_joint(name, make_linear):
    """The equality is exact also for a ReLU decoder: it is linear around almost every z."""
    output, decoder, x, z = set_up(name, (6, 4))
    if make_linear:
        linear(decoder)
    expected = torch.stack(
        [-torch.func.hessian(log_joint(output, decoder, one))(at) for one, at in zip(x, z, strict=True)]
    )
    ours = output.likelihood(decoder, x).precision(decoder.linearise(z))
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_the_curvature_product_is_precision_minus_identity(name, hidden_dims):
    output, decoder, x, z = set_up(name, hidden_dims)
    v = numbers(IMAGES, LATENT, key="v")
    likelihood, at = output.likelihood(decoder, x), decoder.linearise(z)
    expected = torch.einsum("bij,bj->bi", likelihood.precision(at), v) - v
    torch.testing.assert_close(likelihood.curvature_product(at, v), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("quantity", ["gradient", "curvature_product", "precision"])
@pytest.mark.parametrize("hidden_dims", DEPTHS)
@pytest.mark.parametrize("pixels", [3, PIXELS])
def test_the_gram_matrix_gives_the_explicit_values_and_gradients(quantity, hidden_dims, pixels):
    output, decoder, x, z = set_up("gaussian", hidden_dims, pixels)
    z, x = z.requires_grad_(), x.requires_grad_()
    short_cut = output.likelihood(decoder, x)
    assert not isinstance(short_cut, PixelLikelihood)
    inverse_variance = torch.exp(-output.log_variance)
    long_way = PixelLikelihood(
        decoder,
        x,
        output.log_prob,
        lambda x, f: (x - f) * inverse_variance,
        lambda f: inverse_variance.expand_as(f),
    )
    v = () if quantity != "curvature_product" else (numbers(IMAGES, LATENT, key="v"),)
    values, gradients = [], []
    for likelihood in (short_cut, long_way):
        value = getattr(likelihood, quantity)(decoder.linearise(z), *v)
        values.append(value)
        score = (value * numbers(*value.shape, key="weight")).sum()
        gradients.append(scalar_gradients(score, torch.nn.ModuleList([decoder, output]), z, x))
    torch.testing.assert_close(*values, rtol=1e-11, atol=1e-11)
    bias = {name for name in gradients[1] if name not in gradients[0]}  # of the last layer: no part in P
    assert all(torch.all(gradients[1].pop(name) == 0) for name in bias)
    assert_same_gradients(*gradients, tolerance=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("keys", NETWORKS)
def test_any_network_has_explicit_gradient_precision_and_curvature(name, keys):
    """Gaussian, convolutional: J'J / s2 + I."""
    output, decoder = make_output(name).double(), make_decoder(**keys)
    x, z, v = (
        make_images(name, pixels=pixels_of(keys)),
        numbers(IMAGES, LATENT),
        numbers(IMAGES, LATENT, key="v"),
    )
    J, V = explicit(output, decoder, z)
    P = torch.einsum("bpi,bp,bpj->bij", J, V, J) + torch.eye(LATENT).double()
    likelihood, at = output.likelihood(decoder, x), decoder.linearise(z)
    torch.testing.assert_close(likelihood.precision(at), P, rtol=1e-11, atol=1e-11)
    Pv = torch.einsum("bij,bj->bi", P, v)
    torch.testing.assert_close(likelihood.curvature_product(at, v) + v, Pv, rtol=1e-11, atol=1e-11)
    z = z.requires_grad_()
    (expected,) = torch.autograd.grad(output.log_prob(x, decoder(z)).sum(), z)
    torch.testing.assert_close(likelihood.gradient(at), expected, rtol=1e-11, atol=1e-11)


# --- the products with a backward pass of their own ------------------------------------------------------------


def test_shared_gram_has_the_gradients_of_finite_differences():
    """G is symmetric by contract: it is perturbed within the symmetric matrices."""
    A, root = numbers(2, 3, 4, key="A").requires_grad_(), numbers(4, 4, key="G").requires_grad_()
    assert torch.autograd.gradcheck(lambda A, root: SharedGram.apply(A, root + root.T), (A, root))
    G = (root + root.T).detach()
    torch.testing.assert_close(SharedGram.apply(A, G), torch.einsum("bik,kl,bjl->bij", A, G, A))


def test_weighted_gram_has_the_gradients_of_finite_differences():
    J, V = numbers(2, 3, 4, key="J").requires_grad_(), numbers(2, 4, key="V").exp().requires_grad_()
    assert torch.autograd.gradcheck(WeightedGram.apply, (J, V))
    torch.testing.assert_close(WeightedGram.apply(J, V), torch.einsum("bip,bp,bjp->bij", J, V, J))


@pytest.mark.slow
def test_second_derivatives_match_finite_differences():
    """Their backward passes reuse the products of the forward passes: these must not count as constants."""
    A, root = numbers(2, 3, 4, key="A").requires_grad_(), numbers(4, 4, key="G").requires_grad_()
    J, V = numbers(2, 3, 4, key="J").requires_grad_(), numbers(2, 4, key="V").exp().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda A, root: SharedGram.apply(A, root + root.T), (A, root))
    assert torch.autograd.gradgradcheck(WeightedGram.apply, (J, V))


# --- scorers: log p(x | z) at very many z ----------------------------------------------------------------------

SCORED = [*(make_output(name).double() for name in OUTPUTS), BernoulliOutput(clamp=0.2)]


@pytest.mark.parametrize("output", SCORED, ids=["gaussian", "bernoulli", "clamped"])
@pytest.mark.parametrize("pixels", [3, 5, 12], ids=["fewer", "as many", "more"])
@torch.no_grad()
def test_the_scorer_is_the_log_density_for_any_layer_sizes(output, pixels):
    decoder, z = make_decoder((6, 5), pixels), numbers(20, IMAGES, LATENT, key="many")
    x = make_images("bernoulli" if output.support == "binary" else "gaussian", pixels=pixels)
    expected = output.log_prob(x, decoder(z))
    before = x.clone(), z.clone()
    scorer = output.scorer(decoder)
    torch.testing.assert_close(scorer(x)(z), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[1]), "it works in place on nothing of the caller's"
    part = scorer(x[1:3])(z[:7, 1:3])
    torch.testing.assert_close(part, expected[:7, 1:3], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("output", SCORED, ids=["gaussian", "bernoulli", "clamped"])
@pytest.mark.parametrize("keys", NETWORKS)
@torch.no_grad()
def test_scorer_of_any_network_is_the_log_density_of_the_output(output, keys):
    decoder, z = make_decoder(**keys), numbers(20, IMAGES, LATENT, key="many")
    x = make_images("bernoulli" if output.support == "binary" else "gaussian", pixels=pixels_of(keys))
    expected = output.log_prob(x, decoder(z))
    torch.testing.assert_close(output.scorer(decoder)(x)(z), expected, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_the_rotated_scorer_is_precise_in_float32():
    output, decoder = make_output("gaussian"), make_decoder((6, 5), 500)
    x, z = make_images("gaussian", pixels=500), numbers(20, IMAGES, LATENT, key="many")
    exact = output.log_prob(x, decoder(z))
    ours = output.scorer(decoder.float())(x.float())(z.float())
    assert ((ours - exact) / exact).abs().max() < 3e-6


@pytest.mark.parametrize("name", OUTPUTS)
def test_chosen_images_keep_their_likelihood(name):
    output, decoder, x, z = set_up(name)
    chosen = torch.tensor([3, 1])
    together, fewer = output.likelihood(decoder, x), output.likelihood(decoder, x).select(chosen)
    at, there = decoder.linearise(z), decoder.linearise(z[chosen])
    torch.testing.assert_close(fewer.gradient(there), together.gradient(at)[chosen])
    torch.testing.assert_close(fewer.precision(there), together.precision(at)[chosen])
    assert len(together.gradient(at)) == IMAGES  # which is left as it was
