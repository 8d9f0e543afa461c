"""Random numbers are a function of their key, and of nothing else."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from vlae.seeding import batch_noise, derive_seed, generator, image_noise


def draw(*key, size=5):
    return torch.randn(size, generator=generator("cpu", *key))


def test_a_key_gives_the_same_numbers_after_any_draws():
    first = draw(3, "train", 7)
    torch.manual_seed(99)
    torch.randn(10)
    draw(3, "train", 8)
    assert torch.equal(draw(3, "train", 7), first)


def test_drawing_does_not_use_torchs_global_generator():
    before = torch.get_rng_state()
    batch_noise(2, generator("cpu", 0, "train", 0), torch.float32)(3, 4)
    image_noise([generator("cpu", 0, "evaluate", 0)], torch.float32)(3, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_part_of_the_key_changes_the_seed():
    keys = [
        *itertools.product(range(20), ("train", "order", "evaluate"), range(50)),
        *((i,) for i in range(20)),
        *((str(i),) for i in range(20)),
        (1, 23), (12, 3), (123,), ("1", 23), ("a", "b"), ("ab",), ("a, b",), (),
    ]  # fmt: skip
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_zero_is_a_seed():
    assert torch.equal(draw(0, "train", 0), draw(0, "train", 0))
    assert not torch.equal(draw(0, "train", 0), draw(1, "train", 0))


@pytest.mark.slow
def test_a_key_gives_the_same_generator_in_every_process():
    """Python's own hash does not: it is salted by PYTHONHASHSEED."""
    code = "from vlae.seeding import generator; print(generator('cpu', 0, 'train', 5).initial_seed())"
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) == generator("cpu", 0, "train", 5).initial_seed() == derive_seed(0, "train", 5)


def test_different_keys_share_no_numbers():
    """Neighbouring seeds must not give shifted or correlated streams."""
    streams = torch.stack([draw(0, "evaluate", i, size=4000) for i in range(12)]).double()
    correlation = torch.corrcoef(streams) - torch.eye(12)
    assert correlation.abs().max() < 5 / 4000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_noise_has_the_requested_axes_dtype_and_device(dtype):
    source = generator("cpu", "shape")
    noise = batch_noise(4, source, dtype)
    eps = noise(3, 5)
    assert (eps.shape, eps.dtype, eps.device) == ((3, 4, 5), dtype, source.device)
    assert not torch.equal(noise(3, 5), eps), "a second draw is new"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_noise_has_the_requested_axes_dtype_and_device(dtype):
    sources = [generator("cpu", "shape", i) for i in range(4)]
    eps = image_noise(sources, dtype)(3, 5)
    assert (eps.shape, eps.dtype, eps.device) == ((3, 4, 5), dtype, sources[0].device)


def test_an_images_noise_does_not_depend_on_its_batch():
    def drawn(images):
        noise = image_noise([generator("cpu", 1, "evaluate", i) for i in images], torch.float64)
        return [noise(1, 3), noise(20, 3), noise(2, 6)]

    together = drawn([4, 5, 6])
    for place, image in enumerate([4, 5, 6]):
        for alone, all_of_them in zip(drawn([image]), together, strict=True):
            assert torch.equal(alone[:, 0], all_of_them[:, place])
    assert torch.equal(drawn([6, 4])[1][:, 1], together[1][:, 0])


def test_noise_is_standard_normal():
    n = 20_000
    by_batch = batch_noise(2, generator("cpu", "moments"), torch.float64)(n // 2, 1)
    by_image = image_noise([generator("cpu", "moments", i) for i in range(2)], torch.float64)(n // 2, 1)
    for eps in (by_batch, by_image):
        for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
            assert abs(eps.pow(power).mean() - moment) < 5 * (variance / n) ** 0.5
