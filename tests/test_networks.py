"""Networks, the decoder's linearisation, and the initial weights."""

import math

import pytest
import torch
from conftest import (
    IMAGE,
    IMAGES,
    LATENT,
    NETWORKS,
    PIXELS,
    assert_same_gradients,
    forward_mode,
    make_decoder,
    make_model,
    numbers,
    scalar_gradients,
)
from torch import nn

from vlae.config.compose import compose, validate
from vlae.config.problems import ConfigError
from vlae.distributions import GaussianOutput
from vlae.experiment.build import build_model
from vlae.models.backbone import Backbone
from vlae.models.vae import VAE
from vlae.nn.linearisation import FunctionLinearisation, Linearisation, ReLULinearisation
from vlae.nn.networks import (
    MLP,
    ConvEncoder,
    GaussianHead,
    adapt_to_input_variance,
    initialise,
    largest_layer,
)
from vlae.seeding import generator

pytestmark = forward_mode

DEPTHS = [(6,), (6, 5), (6, 5, 9)]
GAINS = [("paper", 2 ** (1 / 3)), ("original", math.sqrt(2 / (1 + 2 ** (2 / 3))))]
"""The second is torch's gain of a leaky ReLU with slope 2^(1/3)."""


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def points():
    return numbers(IMAGES, LATENT, key="z")


def brute_force_jacobian(function, z):
    """[batch, output, latent] by automatic differentiation, image by image."""
    return torch.func.vmap(torch.func.jacfwd(function))(z)


def test_mlp_is_linear_and_relu_once_per_width():
    mlp = MLP(3, (6, 5))
    assert [(layer.in_features, layer.out_features) for layer in mlp.linears] == [(3, 6), (6, 5)]
    h = z = numbers(8, 3).float()
    for layer in mlp.linears:
        h = torch.clamp(h @ layer.weight.T + layer.bias, min=0)
    torch.testing.assert_close(mlp(z), h)


def test_networks_do_not_change_their_input():
    """Its ReLUs work in place."""
    decoder, z = make_decoder(), points()
    before = z.clone()
    decoder(z), decoder.linearise(z)
    assert torch.equal(z, before)


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_decoder_takes_any_leading_axes(hidden_dims):
    decoder, z = make_decoder(hidden_dims), numbers(5, IMAGES, LATENT)
    expected = torch.stack([torch.stack([decoder(one) for one in batch]) for batch in z])
    torch.testing.assert_close(decoder(z), expected, rtol=1e-12, atol=1e-12)


def test_gaussian_head_is_two_linear_layers():
    head, h = GaussianHead(5, LATENT).double(), numbers(IMAGES, 5)
    mu, log_variance = head(h)
    torch.testing.assert_close(mu, h @ head.mu.weight.T + head.mu.bias)
    torch.testing.assert_close(log_variance, h @ head.log_variance.weight.T + head.log_variance.bias)


@pytest.mark.slow
@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_analytic_jacobian_is_that_of_automatic_differentiation(hidden_dims):
    decoder, z = make_decoder(hidden_dims), points()
    J = (decoder.linearise(z).jacobian() @ decoder.last.weight.T).mT
    assert J.shape == (IMAGES, PIXELS, LATENT)
    torch.testing.assert_close(J, brute_force_jacobian(decoder, z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_jacobian_products_are_those_of_automatic_differentiation(hidden_dims):
    decoder, z = make_decoder(hidden_dims), points()
    at = decoder.linearise(z)
    v, u = numbers(IMAGES, LATENT, key="v"), numbers(IMAGES, hidden_dims[-1], key="u")
    features, Av = torch.func.jvp(decoder.body, (z,), (v,))
    torch.testing.assert_close(at.features, features, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(at.jvp(v), Av, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at.vjp(u), torch.func.vjp(decoder.body, z)[1](u)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_dims", DEPTHS)
@pytest.mark.parametrize("product", ["features", "jvp", "vjp", "jacobian"])
def test_linearisation_has_the_gradients_of_automatic_differentiation(hidden_dims, product):
    """Gradients with respect to the weights, the biases and z."""
    decoder, z = make_decoder(hidden_dims), points().requires_grad_()
    v, u = numbers(IMAGES, LATENT, key="v"), numbers(IMAGES, hidden_dims[-1], key="u")
    at: Linearisation = decoder.linearise(z)
    ours, brute_force = {
        "features": lambda: (at.features, decoder.body(z)),
        "jvp": lambda: (at.jvp(v), torch.func.jvp(decoder.body, (z,), (v,))[1]),
        "vjp": lambda: (at.vjp(u), torch.func.vjp(decoder.body, z)[1](u)[0]),
        "jacobian": lambda: (at.jacobian().mT, brute_force_jacobian(decoder.body, z)),
    }[product]()
    weight = numbers(*ours.shape, key="weight")
    got = scalar_gradients((ours * weight).sum(), decoder, z)
    expected = scalar_gradients((brute_force * weight).sum(), decoder, z)
    assert "body.0.weight" in got
    for name, gradient in expected.items():  # a gradient that is 0 may be absent
        other = got.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(
            other, gradient, rtol=1e-11, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_analytic_linearisation_is_the_general_one(hidden_dims):
    decoder, z = make_decoder(hidden_dims), points()
    v, u = numbers(IMAGES, LATENT, key="v"), numbers(IMAGES, hidden_dims[-1], key="u")
    analytic, general = decoder.linearise(z), FunctionLinearisation(decoder.body, z)
    assert isinstance(analytic, ReLULinearisation)
    close(analytic.features, general.features)
    close(analytic.jvp(v), general.jvp(v))
    close(analytic.vjp(u), general.vjp(u))
    close(analytic.jacobian(), general.jacobian())


def reverse_mode_jacobian(function, z):
    """[batch, output, latent], output by output, differentiable: no forward mode, no vmap."""
    rows = [torch.autograd.grad(o.sum(), z, create_graph=True)[0] for o in function(z).unbind(-1)]
    return torch.stack(rows, 1)


@pytest.mark.slow
@pytest.mark.parametrize("keys", NETWORKS)
@pytest.mark.parametrize("product", ["features", "jvp", "vjp", "jacobian"])
@pytest.mark.parametrize("of", ["features", "pixels"])
def test_linearisation_agrees_with_reverse_mode(keys, product, of):
    """Gradients with respect to z, the weights and the biases: the Jacobian of smooth units depends on all."""
    decoder, z = make_decoder(**keys), points().requires_grad_()
    function = decoder.body if of == "features" else decoder
    at = decoder.linearise(z) if of == "features" else decoder.linearise_pixels(decoder.linearise(z))
    v, u = numbers(IMAGES, LATENT, key="v"), numbers(*function(z).shape, key="u")
    J = reverse_mode_jacobian(function, z)
    ours, expected = {
        "features": lambda: (at.features, function(z)),
        "jvp": lambda: (at.jvp(v), torch.einsum("bpi,bi->bp", J, v)),
        "vjp": lambda: (at.vjp(u), torch.einsum("bpi,bp->bi", J, u)),
        "jacobian": lambda: (at.jacobian(), J.mT),
    }[product]()
    close(ours, expected)
    weight = numbers(*ours.shape, key="weight")
    gradients = [scalar_gradients((value * weight).sum(), decoder, z) for value in (ours, expected)]
    smooth = keys["activation"] != "relu"
    assert not smooth or gradients[0]["input 0"].abs().max() > 1e-2
    for name in set.symmetric_difference(*(set(g) for g in gradients)):  # a gradient that is 0 may be absent
        assert all(g.pop(name, torch.zeros(1)).abs().max() == 0 for g in gradients)
    assert_same_gradients(*gradients, tolerance=1e-10)


@pytest.mark.parametrize("keys", [{}, *NETWORKS])
def test_parts_of_a_linearisation_belong_to_their_images(keys):
    decoder = make_decoder(**keys)
    whole = decoder.linearise_pixels(decoder.linearise(points().requires_grad_()))
    with torch.no_grad():
        parts = whole.split(3)
        close(torch.cat([part.jacobian() for part in parts]), whole.jacobian())
    assert [len(part.features) for part in parts] == [3, IMAGES - 3]
    torch.testing.assert_close(torch.cat([part.features for part in parts]), whole.features)


def test_features_are_exactly_linear_as_long_as_no_unit_switches():
    decoder, z = make_decoder((6, 5)), points()
    at, step = decoder.linearise(z), 1e-4 * numbers(IMAGES, LATENT, key="step")
    there = decoder.linearise(z + step)
    for before, after in zip(at.masks, there.masks, strict=True):
        assert torch.equal(before, after), "choose a smaller step"
    torch.testing.assert_close(there.features - at.features, at.jvp(step), rtol=0, atol=1e-14)


# --- units and convolutions ------------------------------------------------------------------------------------

UNITS = {
    "relu": lambda a: a.clamp(min=0),
    "gelu": lambda a: a * (1 + torch.erf(a / math.sqrt(2))) / 2,
    "softplus": lambda a: torch.log1p(torch.exp(a)),
    "tanh": lambda a: (torch.exp(2 * a) - 1) / (torch.exp(2 * a) + 1),
}
SIDES = [(4, 4), (5, 4), (6, 7), (7, 8), (8, 8), (9, 11), (28, 28), (4, 33)]


@pytest.mark.parametrize("activation", UNITS)
def test_units_match_their_name(activation):
    mlp, z = MLP(3, (6, 5), activation).double(), numbers(8, 3)
    h = z
    for layer in mlp.linears:
        h = UNITS[activation](h @ layer.weight.T + layer.bias)
    close(mlp(z), h)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_convolutional_networks_accept_any_image_size(sides, channels):
    image = (channels, *sides)
    encoder, decoder = ConvEncoder(image, (6, 5)).double(), make_decoder(image=image)
    x, z = numbers(IMAGES, math.prod(image)), points()
    assert encoder(x).shape == (IMAGES, 5)
    assert decoder(z).shape == x.shape
    assert decoder(z.expand(2, *z.shape)).shape == (2, *x.shape)


@pytest.mark.parametrize("sides", SIDES[:6])
def test_every_pixel_and_every_feature_map_is_connected(sides):
    """No border is left out, whichever sides are odd."""
    image = (2, *sides)
    encoder, decoder = (
        ConvEncoder(image, (6, 5), "tanh").double(),
        make_decoder(image=image, activation="tanh"),
    )
    assert (decoder.linearise(points()).jacobian() != 0).all()
    x = numbers(IMAGES, math.prod(image)).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (5, 5, 4), (30, 8, 8)])
@pytest.mark.parametrize("hidden_dims", [(6, 5), (6, 5000)])
def test_widest_is_the_largest_output_of_any_layer_for_one_image(image, hidden_dims):
    pixels, counts = math.prod(image), []
    for keys in ({}, {"image": image}):
        model = make_model(VAE, "gaussian", hidden_dims=hidden_dims, pixels=pixels, **keys)
        counts.clear()
        for layer in model.modules():
            layer.register_forward_hook(lambda layer, inputs, out: counts.append(out.numel()))
        x = numbers(1, pixels)
        model.decoder(model.encoder(x)[:, :LATENT])
        assert largest_layer(model) == max(counts)


@pytest.mark.parametrize("image", [(1, 2, 2), (3, 28, 3), (1, 3, 28)])
def test_images_too_small_for_convolutions_are_refused_by_the_key(image):
    for make in (lambda: ConvEncoder(image, (6, 5)), lambda: make_decoder(image=image)):
        with pytest.raises(
            ConfigError, match=rf"model.network: expected mlp .*{image[1]}x{image[2]} .*'conv'"
        ):
            make()


def test_convolutions_need_the_shape_of_an_image():
    with pytest.raises(ValueError, match="image_shape"):
        VAE(Backbone(latent_dim=2, hidden_dims=(3,), network="conv", pixels=16, output=GaussianOutput()))


# --- initialisation --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "gain"), GAINS)
def test_backward_variance_of_the_decoder_follows_the_gain(scheme, gain):
    """Three layers, of which two pass half of the gradient: 1 for ``paper``, 0.115 for ``original``."""
    ratios = []
    for draw in range(12):
        decoder = make_decoder((500, 500), pixels=784, latent_dim=50).float()
        initialise(decoder, scheme, generator("cpu", "backward", draw))
        z = numbers(16, 50, key=f"z{draw}").float().requires_grad_()
        gradient = numbers(16, 784, key=f"g{draw}").float()
        (back,) = torch.autograd.grad(decoder(z), z, gradient)
        ratios.append(back.square().mean() / gradient.square().mean())
    ratios = torch.stack(ratios)
    expected = gain**6 / 4
    standard_error = (ratios.std() / len(ratios) ** 0.5).item()
    assert standard_error < 0.03 * expected, "too few draws to tell"
    assert abs(ratios.mean().item() - expected) < 4 * standard_error
    assert math.isclose(expected, {"paper": 1.0, "original": 0.115}[scheme], rel_tol=0.01)


@pytest.mark.parametrize(("scheme", "gain"), GAINS)
def test_weights_are_uniform_with_variance_gain_squared_over_fan_out(scheme, gain):
    layer = nn.Linear(40, 300)
    initialise(layer, scheme, generator("cpu", "uniform"))
    bound = gain * math.sqrt(3 / 300)
    assert 0.99 * bound < layer.weight.abs().max() <= bound * (1 + 1e-6)
    standard_error = (4 / 45 / layer.weight.numel()) ** 0.5  # of the mean square of U(-1, 1), which is 1/3
    assert abs((layer.weight / bound).square().mean() - 1 / 3) < 5 * standard_error
    assert abs((layer.weight / bound).mean()) < 5 / (3 * layer.weight.numel()) ** 0.5
    assert 0.9 / math.sqrt(40) < layer.bias.abs().max() <= 1 / math.sqrt(40)


def test_initial_weights_depend_only_on_the_key():
    def weights(history, *key):
        torch.manual_seed(history)
        module = nn.Sequential(GaussianHead(5, 3), MLP(4, (6, 5)), nn.Linear(3, 2, bias=False))
        initialise(module, "paper", generator("cpu", *key))
        return torch.cat([parameter.flatten() for parameter in module.parameters()])

    assert torch.equal(weights(1, 0, "weights"), weights(2, 0, "weights"))
    different = weights(1, 0, "weights") != weights(1, 1, "weights")
    assert different.all(), "a layer is left as torch made it"


def initial_log_variances(variance, widths, latent_dim, adapt):
    """Log-variances of images with this variance of their pixels, for many initial encoders with 60 inputs."""
    found = []
    for draw in range(30):
        encoder, head = MLP(60, widths), GaussianHead(widths[-1], latent_dim)
        initialise(nn.ModuleList([encoder, head]), "paper", generator("cpu", "initial", draw))
        if adapt:
            adapt_to_input_variance(encoder, variance, latent_dim)
        x = math.sqrt(variance) * numbers(50, 60, key=f"x {draw}").float()
        found.append(head(encoder(x))[1])
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("variance", [2.0, 100.0])
@pytest.mark.parametrize(
    ("widths", "latent_dim"), [((40,), 5), ((90, 40), 5), ((40, 90), 20), ((50, 30, 40), 15)]
)
def test_large_pixel_units_still_start_with_variance_one(variance, widths, latent_dim):
    def mean_square(adapt):
        return initial_log_variances(variance, widths, latent_dim, adapt).square().mean().item()

    assert 0.7 < mean_square(True) < 1.4
    assert mean_square(False) > 2


@pytest.mark.parametrize(("variance", "latent_dim"), [(0.09, 5), (1.0, 5), (1.2, 200)])
def test_an_encoder_for_small_pixels_is_not_rescaled(variance, latent_dim):
    adapted, plain = (initial_log_variances(variance, (40, 30), latent_dim, adapt) for adapt in (True, False))
    assert torch.equal(adapted, plain)


@pytest.mark.slow
@pytest.mark.parametrize(("initialisation", "small"), [("paper", True), ("original", False)])
def test_a_run_is_initialised_for_its_pixel_variance(initialisation, small):
    overrides = ["model=vae", "dataset=mnist", f"trainer.initialisation={initialisation}"]
    cfg = validate(compose(overrides))
    x = 4 * numbers(64, 784, key="pixels").float()
    model = build_model(cfg, (1, 28, 28), 16.0, torch.device("cpu"), torch.float32)
    assert (model.amortised(model.encoder(x))[1].square().mean().item() < 1.5) == small


# --- initial weights of convolutions and other units -----------------------------------------------------------


@pytest.mark.parametrize(("scheme", "gain"), GAINS)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_backward_variance_of_a_convolution_is_the_squared_gain(kind, scheme, gain):
    """Away from the border it is as through a linear layer, for any stride."""
    ratios = []
    for draw in range(12):
        layer = kind(24, 16, 3, stride=2, padding=1)
        initialise(layer, scheme, generator("cpu", "conv", draw))
        x = numbers(2, 24, 18, 18, key=f"x{draw}").float().requires_grad_()
        out = layer(x)
        (back,) = torch.autograd.grad(out, x, numbers(*out.shape, key=f"g{draw}").float())
        ratios.append(back[..., 2:-2, 2:-2].square().mean())
    ratios = torch.stack(ratios)
    standard_error = (ratios.std() / len(ratios) ** 0.5).item()
    assert standard_error < 0.03 * gain**2, "too few draws to tell"
    assert abs(ratios.mean().item() - gain**2) < 4 * standard_error


@pytest.mark.parametrize("image", [None, IMAGE])
def test_the_activation_does_not_change_the_initial_weights(image):
    relu, gelu = (
        make_decoder(activation=activation, image=image).state_dict() for activation in ("relu", "gelu")
    )
    assert relu.keys() == gelu.keys()
    assert all(torch.equal(relu[name], gelu[name]) for name in relu)


def test_a_convolutional_encoder_starts_with_variance_one():
    """Exceptions are its biases, which are large because a window has few places, and the border."""
    squares = []
    for draw in range(30):
        encoder, head = ConvEncoder((1, 16, 16), (40,)), GaussianHead(40, 5)
        initialise(nn.ModuleList([encoder, head]), "paper", generator("cpu", "initial", draw))
        for layer in [*encoder.modules(), *head.modules()]:
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)
        adapt_to_input_variance(encoder, 25.0, 5)
        squares.append(head(encoder(5 * numbers(20, 256, key=f"x {draw}").float()))[1].square().mean())
    assert 0.3 < torch.stack(squares).mean() < 2


@pytest.mark.parametrize(
    ("activation", "passed"), [("relu", 0.5), ("gelu", 0.46), ("tanh", 0.46), ("softplus", 0.29)]
)
def test_units_pass_the_expected_backward_variance(activation, passed):
    """E[unit'(a)^2] for standard normal a, on a grid."""
    a = torch.linspace(-9, 9, 20_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(UNITS[activation](a).sum(), a)
    density = torch.exp(-0.5 * a.detach().square())
    assert abs((slope.square() * density).sum() / density.sum() - passed) < 0.005
