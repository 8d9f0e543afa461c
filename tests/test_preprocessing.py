"""Laws of preprocessing: its inverse, its Jacobian, and what stays fixed."""

import math
import subprocess
import sys

import pytest
import torch
from torch.autograd.functional import jacobian

from vlae.config.preprocessing import Preprocessing, conflicts
from vlae.data.download import DataError
from vlae.data.preprocess import Preprocess
from vlae.data.splits import Splits
from vlae.seeding import generator

REAL = [
    {},
    {"subtract_mean": False},
    {"dequantise": True},
    {"dequantise": True, "logit_transform": True, "lambda": 1e-6},
    {"dequantise": True, "logit_transform": True, "lambda": 0.05, "subtract_mean": False},
]


def images(n, shape=(1, 3, 3), levels=256, seed=0):
    return torch.from_numpy(
        torch.randint(0, levels, (n, *shape), generator=generator("cpu", seed)).numpy().astype("uint8")
    )


def splits(n=40, shape=(1, 3, 3), levels=256, seed=0):
    return Splits(
        train=images(n, shape, levels, 1),
        validation=images(7, shape, levels, 2),
        test=images(11, shape, levels, 3),
        levels=levels,
        seed=seed,
    )


def fractions(shape=(1, 3, 3), seed=0):
    train, validation, test = (
        torch.rand(n, *shape, generator=generator("cpu", n), dtype=torch.float32) for n in (40, 7, 11)
    )
    return Splits(train=train, validation=validation, test=test, levels=None, seed=seed)


def preprocess(settings, data=None, support="real", dtype=torch.float64):
    return Preprocess.fit(settings, data or splits(), support, dtype=dtype)


@pytest.mark.parametrize("settings", REAL)
@pytest.mark.parametrize("levels", [17, 256])
def test_the_inverse_returns_pixels_and_noise(settings, levels):
    data = splits(levels=levels)
    p = preprocess(settings, data)
    u = data.train.double().flatten(1)
    if p.preprocessing.dequantise:
        noise = torch.rand(data.train.shape, generator=generator("cpu", 5))
        y = (u + noise.flatten(1)) / levels
    else:
        y = u / (levels - 1)
    x = p.forward(data.train, generator("cpu", 5))
    torch.testing.assert_close(p.inverse(x), y, rtol=0, atol=1e-9)
    assert torch.equal(p.images(x).flatten(1), p.inverse(x))


@pytest.mark.parametrize("settings", [{}, {"logit_transform": True, "lambda": 0.01}])
def test_the_inverse_of_fractions_is_exact(settings):
    data = fractions()
    p = preprocess(settings, data)
    x = p.forward(data.train, generator("cpu", 5))
    torch.testing.assert_close(p.inverse(x), data.train.double().flatten(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", REAL)
@pytest.mark.parametrize("levels", [17, 256])
def test_log_abs_det_jacobian_is_slogdet_of_the_automatic_jacobian(settings, levels):
    p = preprocess(settings, splits(levels=levels))
    noise = torch.rand(1, 1, 3, 3, generator=generator("cpu", 5)).double()
    u = images(1, levels=levels).double()

    def x_of(u):
        # real-valued u stands for pixel plus noise: the noise itself moves u through its level
        return p._to_model_space(torch.floor(u.detach()) + (u - u.detach()), noise, torch.float64) - p.shift

    J = jacobian(x_of, u).reshape(9, 9)
    expected = torch.linalg.slogdet(J).logabsdet
    torch.testing.assert_close(p.log_abs_det_jacobian(x_of(u))[0], expected)


def test_log_abs_det_jacobian_matches_automatic_differentiation():
    data = fractions()
    p = preprocess({"logit_transform": True, "lambda": 0.01}, data)
    u = data.test[:1].double()

    def x_of(u):
        return p._to_model_space(u, torch.empty(0), torch.float64) - p.shift

    expected = torch.linalg.slogdet(jacobian(x_of, u).reshape(9, 9)).logabsdet
    torch.testing.assert_close(p.log_abs_det_jacobian(x_of(u))[0], expected)


@pytest.mark.parametrize("settings", [s for s in REAL if s.get("dequantise")])
def test_a_uniform_density_on_0_to_256_scores_8_bits_per_dimension(settings):
    data = splits()
    p = preprocess(settings, data)
    assert p.bits_per_dim_defined
    x = p.evaluation_set(data.test, "test")
    log_p = torch.zeros(len(x), dtype=x.dtype)
    if p.preprocessing.logit_transform:  # density of logit(s), s uniform on [lambda, 1 - lambda]
        s = torch.sigmoid(x + p.shift)
        log_p = (s.log() + (1 - s).log() - math.log(1 - 2 * p.preprocessing.lambda_)).sum(1)
    bits = -(log_p + p.log_abs_det_jacobian(x)) / (p.pixels * math.log(2))
    torch.testing.assert_close(bits, torch.full_like(bits, 8))


def test_bits_per_dim_are_undefined_without_dequantisation():
    assert not preprocess({}).bits_per_dim_defined
    assert not preprocess({}, fractions()).bits_per_dim_defined
    assert not preprocess({}, support="binary").bits_per_dim_defined


def test_binary_pixels_have_masses_and_need_no_jacobian():
    data = splits()
    p = preprocess({}, data, "binary")
    assert torch.equal(p.log_abs_det_jacobian(p.evaluation_set(data.test, "test")), torch.zeros(11).double())


@pytest.mark.parametrize(("support", "settings"), [("binary", {}), *(("real", s) for s in REAL)])
def test_float32_and_float64_see_the_same_images(support, settings):
    data = splits()
    single, double = (preprocess(settings, data, support, dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-6, atol=1e-6)
    for of in (
        lambda p: p.forward(data.train, generator("cpu", 1)),
        lambda p: p.evaluation_set(data.test, "test"),
    ):
        torch.testing.assert_close(of(single).double(), of(double), rtol=1e-5, atol=1e-5)


def test_the_logit_transform_is_precise_near_black_and_white():
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2).repeat(500, 1, 1, 1)
    data = Splits(train=extremes, validation=extremes[:0], test=extremes, levels=256, seed=0)
    settings = {"dequantise": True, "logit_transform": True, "lambda": 1e-6}
    single, double = (
        preprocess(settings, data, dtype=d).evaluation_set(extremes, "test")
        for d in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("settings", REAL)
@pytest.mark.parametrize("levels", [17, None])
def test_mean_and_variance_are_of_the_training_set(settings, levels):
    if levels is None:
        settings = {k: v for k, v in settings.items() if k != "dequantise"}
    data = fractions() if levels is None else splits(levels=levels)
    p = preprocess(settings, data)
    x = p.evaluation_set(data.train, "train")
    before = x + p.shift
    torch.testing.assert_close(p.mean, before.mean(0))
    torch.testing.assert_close(p.variance, (before - before.mean(0)).square().mean().item())
    if p.preprocessing.subtract_mean:
        torch.testing.assert_close(x.mean(0), torch.zeros(9).double(), rtol=0, atol=1e-12)
    else:
        assert torch.equal(p.shift, torch.zeros(9).double())


@pytest.mark.slow
def test_mean_and_variance_of_binary_pixels_are_of_draws():
    data = splits()
    p = preprocess({}, data, "binary")
    source = generator("cpu", 0)
    draws = torch.cat([p.forward(data.train, source) for _ in range(2000)])
    assert (draws.mean(0) - p.mean).abs().max() < 0.01
    assert abs(draws.var(0).mean().item() - p.variance) < 0.005


@pytest.mark.parametrize(("support", "settings"), [("binary", {}), ("real", REAL[3])])
def test_evaluation_images_do_not_depend_on_their_number(support, settings, monkeypatch):
    monkeypatch.setattr("vlae.data.preprocess.CHUNK_PIXELS", 9 * 4)  # several chunks
    data = splits()
    p = preprocess(settings, data, support)
    whole = p.evaluation_set(data.test, "test")
    for n in (0, 3, 4, 6, 8):
        assert torch.equal(p.evaluation_set(data.test[:n], "test"), whole[:n])


def test_every_evaluation_image_has_noise_of_its_own(monkeypatch):
    monkeypatch.setattr("vlae.data.preprocess.CHUNK_PIXELS", 9 * 4)
    p = preprocess({"dequantise": True})
    x = p.evaluation_set(torch.zeros(11, 1, 3, 3, dtype=torch.uint8), "test")
    assert len(x.unique(dim=0)) == 11


@pytest.mark.parametrize(("support", "settings"), [("binary", {}), ("real", REAL[2])])
def test_evaluation_images_depend_only_on_split_seed(support, settings):
    first, second = preprocess(settings, support=support), preprocess(settings, support=support)
    test = splits().test
    torch.manual_seed(1)
    x = first.evaluation_set(test, "test", 1)
    torch.manual_seed(2)
    assert torch.equal(second.evaluation_set(test, "test", 2), x)
    other = preprocess(settings, splits(seed=1), support)
    assert not torch.equal(other.evaluation_set(test, "test"), x)
    assert not torch.equal(first.evaluation_set(test, "validation"), x)


def test_without_fixed_evaluation_noise_is_drawn_each_time():
    p = preprocess({"fixed_evaluation": False}, support="binary")
    test = splits().test
    one, two, again = (p.evaluation_set(test, "test", k) for k in (1, 2, 1))
    assert not torch.equal(one, two)
    assert torch.equal(one, again)
    with pytest.raises(ValueError, match="fixed_evaluation"):
        p.evaluation_set(test, "test")


@pytest.mark.slow
def test_dynamic_images_average_to_their_brightness():
    data = splits()
    p = preprocess({}, data, "binary")
    train = p.training_images(data)
    assert train is data.train
    assert not torch.equal(p.forward(train, generator("cpu", 1)), p.forward(train, generator("cpu", 2)))
    draws = torch.stack([p.forward(train, generator("cpu", k)) for k in range(3000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert (draws.mean(0) - data.train.flatten(1) / 255).abs().max() < 5 * 0.5 / math.sqrt(3000)


@pytest.mark.parametrize(
    "data", [splits(), splits(levels=17), fractions()], ids=["8 bits", "17 levels", "fractions"]
)
def test_static_training_images_are_one_fixed_draw(data):
    p = preprocess({"binarise": "static"}, data, "binary")
    train = p.training_images(data)
    x = p.forward(train, generator("cpu", 1))
    assert torch.equal(x, p.forward(train, generator("cpu", 2)))
    assert torch.equal(x, p.evaluation_set(data.train, "train"))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert train.dtype == data.train.dtype


def test_noise_stays_within_its_level():
    data = splits()
    p = preprocess({"dequantise": True}, data)
    x = p.evaluation_set(data.test, "test")
    assert torch.equal((p.inverse(x) * 256).floor(), data.test.flatten(1).double())


@pytest.mark.parametrize(("support", "settings"), [("binary", {}), ("real", REAL[3])])
def test_a_restored_preprocessing_is_the_same_without_the_data(support, settings):
    p = preprocess(settings, support=support)
    q = Preprocess(settings, support, p.state(), dtype=torch.float64)
    test = splits().test
    x = p.evaluation_set(test, "test")
    assert torch.equal(q.evaluation_set(test, "test"), x)
    assert torch.equal(q.inverse(x), p.inverse(x))
    assert (q.variance, q.shape) == (p.variance, p.shape)


def test_outputs_outside_the_range_become_black_and_white():
    p = preprocess({"subtract_mean": False})
    y = p.inverse(torch.tensor([[-3.0] * 4 + [4.0] * 5], dtype=torch.float64))
    assert y.tolist() == [[0.0] * 4 + [1.0] * 5]


def test_identical_training_images_are_refused():
    same = torch.full((5, 1, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises(DataError, match="all the same"):
        preprocess({}, Splits(train=same, validation=same, test=same, levels=256, seed=0))


CONFLICTS = [
    ({"dequantise": True}, "binary", {}, "dataset.dequantise=true"),
    ({"dequantise": True, "logit_transform": True}, "binary", {}, "dataset.logit_transform=true"),
    ({}, "binary", {"channels": 3}, "one channel, this dataset's have 3"),
    ({"dequantise": True}, "real", {"integers": False}, "dataset.dequantise=true"),
    ({"logit_transform": True}, "real", {"integers": True}, "needs dataset.dequantise=true"),
    ({"logit_transform": True, "dequantise": True, "lambda": 0.0}, "real", {}, "dataset.lambda=0"),
]


@pytest.mark.parametrize(("settings", "support", "facts", "reason"), CONFLICTS)
def test_conflicts_are_named_before_the_data_are_loaded(settings, support, facts, reason):
    assert any(
        reason in problem for problem in conflicts(Preprocessing.model_validate(settings), support, **facts)
    )


@pytest.mark.parametrize(
    ("settings", "support", "data", "reason"),
    [
        ({}, "binary", splits(shape=(3, 2, 2)), "this dataset's have 3"),
        ({"dequantise": True}, "real", fractions(), "dequantise"),
        ({"logit_transform": True}, "real", splits(), "needs dataset.dequantise=true"),
    ],
)
def test_conflicts_with_the_data_are_found_after_loading(settings, support, data, reason):
    with pytest.raises(DataError, match=reason):
        preprocess(settings, data, support)


@pytest.mark.parametrize("channels", [1, 3, None])
@pytest.mark.parametrize("settings", REAL)
def test_sound_settings_have_no_conflicts(settings, channels):
    p = Preprocessing.model_validate(settings)
    assert conflicts(p, "real", channels=channels, integers=True) == []
    assert conflicts(Preprocessing(), "binary", channels=1, integers=True) == []


def test_an_unknown_support_is_an_error():
    with pytest.raises(ValueError, match=r"expected 'real' or 'binary', got 'reel'"):
        conflicts(Preprocessing(), "reel")


@pytest.mark.parametrize(
    "wrong",
    [
        {"lambda": 0.5},
        {"lambda": -0.1},
        {"binarise": "never"},
        {"dequantise": 1},
        {"lambda": math.nan},
        {"x": 1},
    ],
)
def test_settings_out_of_range_or_of_the_wrong_type_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing.model_validate(wrong)


@pytest.mark.slow
def test_the_configuration_of_preprocessing_needs_no_torch():
    code = "import sys, vlae.config.preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
