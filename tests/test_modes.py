"""Modes from common starts, against decoders all of whose modes are known in closed form."""

import itertools

import pytest
import torch
from conftest import LATENT, OUTPUTS, linear, make_decoder, make_images, make_output, numbers
from folded import VARIANCE, folded, folded_output, log_evidence, log_sides, mode

from vlae.errors import NonFiniteError
from vlae.estimation import modes
from vlae.estimation.modes import APART, NEGLIGIBLE, find_components

SLOPES = ((1.0, 0.9), (1.0, 0.8))
"""Two latent dimensions: four modes of an image with positive pixels, of different heights."""


def search(x, starts=20, most=8, slopes=SLOPES, start=None):
    output, decoder = folded_output(), folded(slopes)
    start = numbers(starts, len(x), len(slopes), key="starts") if start is None else start
    return find_components(output, decoder, x, start, most, output.scorer(decoder))


def images(*pixels):
    return torch.tensor(pixels).double()


def test_every_mode_is_found_with_its_laplace_precision_the_best_first():
    x = images([2.0, 1.8], [0.9, 1.5])
    found, sides = search(x), log_sides(SLOPES, x)
    assert found.images.tolist() == [0] * 4 + [1] * 4
    assert found.ranks.tolist() == [0, 1, 2, 3] * 2
    for image in range(2):
        quadrants = list(itertools.product((0, 1), (0, 1)))
        quadrants.sort(key=lambda q: -float(sides[image, 0, q[0]] + sides[image, 1, q[1]]))
        slopes = [[(a, -b)[side] for (a, b), side in zip(SLOPES, q, strict=True)] for q in quadrants]
        at = [[mode(s, float(v)) for s, v in zip(of_one, x[image], strict=True)] for of_one in slopes]
        chosen = found.images == image
        torch.testing.assert_close(found.z[chosen], torch.tensor(at).double(), rtol=0, atol=1e-6)
        L = found.cholesky[chosen]
        precision = torch.diag_embed(1 + torch.tensor(slopes).double().square() / VARIANCE)
        torch.testing.assert_close(L @ L.mT, precision, rtol=1e-9, atol=1e-9)
        assert torch.equal(L.tril(), L)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_best_are_kept_where_there_are_too_many(most):
    x = images([2.0, 1.8], [0.9, 1.5])
    all_of_them, found = search(x), search(x, most=most)
    kept = all_of_them.ranks < most
    assert torch.equal(found.images, all_of_them.images[kept])
    assert torch.equal(found.ranks, all_of_them.ranks[kept])
    assert torch.equal(found.z, all_of_them.z[kept])


@pytest.mark.parametrize(("distance", "number"), [(0.9 * APART, 1), (1.1 * APART, 2)])
def test_modes_are_one_where_they_are_near_in_the_metric_of_their_precision(distance, number):
    """Modes at +-m of a symmetric fold, sqrt(1 + 1/s^2) 2 m standard deviations from each other."""
    m = 0.5 * distance / (1 + 1 / VARIANCE) ** 0.5
    x = images([m * (1 + VARIANCE)])
    found = search(x, slopes=[(1.0, 1.0)])
    assert len(found.z) == number
    torch.testing.assert_close(found.z.abs(), torch.full_like(found.z, m), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("nats", "number"), [(0.8 * NEGLIGIBLE, 2), (1.2 * NEGLIGIBLE, 1)])
def test_a_mode_that_contributes_nothing_is_left_out(nats, number):
    """The slope b of the other side is such that its mode is so many nats below the better one."""
    x, slopes = images([3.0]), [[(1.0, b)] for b in torch.linspace(0.3, 1, 100).tolist()]
    gaps = [float(log_sides(s, x)[0, 0].diff().abs()) for s in slopes]
    chosen = min(range(len(gaps)), key=lambda i: abs(gaps[i] - nats))
    assert gaps[chosen] == pytest.approx(nats, rel=0.1), "no such slope: no test"
    assert len(search(x, slopes=slopes[chosen]).z) == number


def test_a_search_in_a_flat_place_takes_no_other_for_itself():
    """At 0 no unit is on: the precision is I there, which says nothing of how far apart modes are."""
    x = images([1.0, -1.0])  # no value of z explains the second pixel: searches are slow
    start = torch.tensor([[0.0, 0.0], [0.9, -0.2], [-0.2, -1.1]]).double().unsqueeze(1)
    found = search(x, start=start)
    assert sorted(found.z[:, 0].sign().tolist()) == [-1.0, 1.0]


@pytest.mark.parametrize("name", OUTPUTS)
def test_searches_that_end_together_are_one(name):
    """A linear decoder has one mode, wherever its searches start."""
    decoder, output, x = make_decoder((8, 6)), make_output(name).double(), make_images(name)
    linear(decoder)
    starts = 2 * numbers(9, len(x), LATENT, key="starts")
    found = find_components(output, decoder, x, starts, 4, output.scorer(decoder))
    assert found.images.tolist() == list(range(len(x)))
    assert found.ranks.tolist() == [0] * len(x)


def test_an_image_has_the_same_modes_alone_and_in_any_group():
    x = images([2.0, 1.8], [0.9, 1.5], [0.1, 1.0], [-1.0, 2.0])
    starts = numbers(20, len(x), 2, key="starts")
    together = search(x, start=starts)
    assert together.images.bincount().tolist() == [4, 4, 2, 2]
    for image in range(len(x)):
        alone, chosen = (
            search(x[image : image + 1], start=starts[:, image : image + 1]),
            together.images == image,
        )
        for name in ("ranks", "z", "cholesky"):
            ours, expected = getattr(alone, name), getattr(together, name)[chosen]
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_searches_of_a_large_decoder_go_in_parts(monkeypatch):
    """Their Jacobians are bounded, and the modes are the same."""
    x = images([2.0, 1.8], [0.9, 1.5], [0.1, 1.0])
    starts, rows = numbers(20, len(x), 2, key="starts"), []
    together, find = search(x, start=starts), modes.find_modes

    def counted(output, decoder, x, start, **how):
        rows.append(len(start))
        return find(output, decoder, x, start, **how)

    monkeypatch.setattr(modes, "find_modes", counted)
    monkeypatch.setattr(modes, "JACOBIAN_NUMBERS", 7 * 2 * modes.largest_layer(folded(SLOPES)))
    parts = search(x, start=starts)
    assert max(rows) == 7
    assert sum(rows) > 60
    for name in ("images", "ranks", "z", "cholesky"):
        torch.testing.assert_close(getattr(parts, name), getattr(together, name), rtol=1e-9, atol=1e-9)


def test_the_modes_make_up_the_likelihood():
    """The Laplace evidences of far modes sum to p(x): so the closed form and the search agree on all of it."""
    x = images([2.0, 1.8], [0.9, 1.5])
    found, sides = search(x), log_sides(SLOPES, x)
    output, decoder = folded_output(), folded(SLOPES)
    joint = output.log_prob(x[found.images], decoder(found.z)).detach() - 0.5 * found.z.square().sum(-1)
    heights = joint - found.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total = torch.stack([heights[found.images == image].logsumexp(0) for image in range(2)])
    torch.testing.assert_close(total, log_evidence(SLOPES, x), rtol=0, atol=1e-3)
    assert sides.shape == (2, 2, 2)


@torch.no_grad()
def test_a_precision_that_is_not_finite_is_an_error():
    x, output, decoder = images([2.0, 1.8]), folded_output(), folded(SLOPES)
    decoder.last.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        find_components(output, decoder, x, numbers(3, 1, 2), 4, output.scorer(decoder))
