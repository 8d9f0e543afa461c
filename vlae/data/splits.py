"""A dataset in memory: its images, split once and for all by the data's own seed."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from vlae.data.download import DataError
from vlae.seeding import derive_seed


@dataclass(frozen=True, repr=False)
class Splits:
    """Training, validation and test images, as they are stored: uint8 in 0..levels-1, or float32 in [0, 1].

    They stay so in memory, on the device; ``Preprocess`` converts them batch by batch.

    >>> images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)  # [images, channels, height, width]
    >>> Splits(train=images[:3], validation=images[3:4], test=images[4:], levels=17, seed=0)
    <Splits: 3 training, 1 validation, 1 test images of 1x8x8, levels 17>
    """

    train: Shaped[Tensor, "train channels height width"]
    validation: Shaped[Tensor, "validation channels height width"]
    test: Shaped[Tensor, "test channels height width"]
    levels: int | None
    """Number of values of an integer pixel (256 for 8 bits); None for fractions."""
    seed: int
    """``split_seed``: the seed of the split, and of all noise that belongs to the data and not to a run."""

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.validation)} validation, {len(self.test)} test images"
        return f"<Splits: {sizes} of {'x'.join(map(str, self.shape))}, levels {self.levels}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "Splits":
        """The same images on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)


def frozen_random(*key: int | str) -> np.random.RandomState:
    """Random numbers that define data: the same for a key on every device, for ever.

    numpy froze the streams of RandomState (NEP 19); torch promises its own only within a release.
    """
    seed = derive_seed("data", *key)
    return np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])


def split(
    training_set: Shaped[Tensor, "images channels height width"],
    test: Shaped[Tensor, "test channels height width"],
    *,
    levels: int | None,
    validation_size: int,
    seed: int,
) -> Splits:
    """Set ``validation_size`` images of the training set aside, drawn by ``seed``; the others keep their order."""
    if validation_size >= len(training_set):
        raise DataError(
            f"dataset.validation_size={validation_size} leaves no image to train on: the training set has "
            f"{len(training_set)}. Expected 0 to {len(training_set) - 1}"
        )
    order = torch.from_numpy(frozen_random("split", seed).permutation(len(training_set)))
    validation, train = order[:validation_size].sort().values, order[validation_size:].sort().values
    return Splits(
        train=training_set[train], validation=training_set[validation], test=test, levels=levels, seed=seed
    )
