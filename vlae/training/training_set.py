"""Training images as they are stored, and their mini-batches in model space."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.data.preprocess import Preprocess
from vlae.seeding import Noise, batch_noise, generator


@dataclass(frozen=True)
class TrainingSet:
    """Images [images, ...] of integers or numbers in [0, 1], and the preprocessing that leads to model space."""

    images: Tensor
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.images)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of images in an epoch: a function of seed and epoch, the same on every device."""
        source = generator("cpu", seed, "order", epoch)
        return torch.randperm(len(self.images), generator=source).to(self.images.device)

    def batch(self, indices: Tensor, seed: int, step: int) -> tuple[Float[Tensor, "batch pixels"], Noise]:
        """These images in model space, and the noise of a step: functions of seed and step."""
        source = generator(self.images.device, seed, "train", step)
        x = self.preprocess.forward(self.images.index_select(0, indices), source)
        return x, batch_noise(len(x), source, x.dtype)
