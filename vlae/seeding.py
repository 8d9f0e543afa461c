"""Random numbers as a function of seed and purpose.

Every random draw of a run comes from a generator keyed by (seed, purpose, index), never from the history of a
global one. So a resumed run draws what the uninterrupted run would have drawn, without any generator state in
its checkpoints, and an image's samples depend neither on the batch nor on the chunk in which it is evaluated.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Callable[[int, int], Float[Tensor, "samples batch dim"]]
"""``noise(samples, dim)`` draws standard normal numbers for every image of a batch."""


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that is a function of the whole key; 0 is a seed like any other.

    >>> derive_seed(0, "train", 1) == derive_seed(0, "train", 2)
    False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, *key: int | str) -> torch.Generator:
    """A generator on ``device`` whose state is a function of the key."""
    return torch.Generator(device).manual_seed(derive_seed(*key))


def batch_noise(batch: int, source: torch.Generator, dtype: torch.dtype) -> Noise:
    """One stream for the whole batch, as a training step uses."""

    def draw(samples: int, dim: int) -> Float[Tensor, "samples batch dim"]:
        return torch.randn(samples, batch, dim, generator=source, device=source.device, dtype=dtype)

    return draw


def image_noise(sources: Sequence[torch.Generator], dtype: torch.dtype) -> Noise:
    """One stream per image: an image's numbers do not depend on which other images are in the batch."""

    def draw(samples: int, dim: int) -> Float[Tensor, "samples batch dim"]:
        numbers = torch.empty(len(sources), samples, dim, device=sources[0].device, dtype=dtype)

        def fill(image: int) -> None:
            numbers[image].normal_(generator=sources[image])

        # torch draws in one thread and lets go of the interpreter meanwhile: images can be drawn side by side
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(fill, range(len(sources))))
        return numbers.transpose(0, 1)

    return draw
