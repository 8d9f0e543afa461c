"""Images in the space a model sees, and back: x, its exact inverse and its log-Jacobian."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from vlae.config.preprocessing import Preprocessing, conflicts
from vlae.data.download import DataError
from vlae.data.splits import Splits, frozen_random
from vlae.seeding import generator

CHUNK_PIXELS = 2**17  # a chunk and its float64 intermediates stay in the processor's cache
Name = Literal["train", "validation", "test"]


class Preprocess:
    """u -> x as ``Preprocessing`` describes it, for one dataset and one output distribution's support.

    Laws: ``inverse(forward(u))`` is y up to rounding; with u in [0, levels)^pixels for integer data and in
    [0, 1]^pixels for fractions, log p(u) = log p(x) + ``log_abs_det_jacobian(x)``; ``evaluation_set`` gives an image
    the same x in every run, batch and chunk and on every device.

    >>> images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2) * 30
    >>> splits = Splits(train=images, validation=images[:0], test=images, levels=256, seed=0)
    >>> preprocess = Preprocess.fit({"subtract_mean": False}, splits, "real")
    >>> preprocess.evaluation_set(splits.test, "test")[0]
    tensor([0.0000, 0.1176, 0.2353, 0.3529])
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        support: str,
        state: Mapping[str, Any],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """The preprocessing of a ``dataset`` section with a ``state()``, which `fit` learns from training images."""
        self.preprocessing, self._state, self.dtype = Preprocessing.of(section), state, dtype
        channels, height, width = state["shape"]
        self.shape: tuple[int, int, int] = (channels, height, width)
        self.levels, self.seed, self.variance = state["levels"], state["seed"], state["variance"]
        self.pixels = math.prod(self.shape)
        self.binary = support == "binary"
        self.random = self.binary or self.preprocessing.dequantise
        self._logit, self._lambda = self.preprocessing.logit_transform, self.preprocessing.lambda_
        self.top = 1 if self.levels is None else self.levels - 1
        """The value of a white pixel."""
        self.mean: Float[Tensor, " pixels"] = state["mean"].to(dtype).to(device)
        """Mean of the training images in model space, before it is subtracted."""
        subtract = self.preprocessing.subtract_mean and not self.binary
        self.shift: Float[Tensor, " pixels"] = self.mean if subtract else torch.zeros_like(self.mean)

    @classmethod
    def fit(
        cls, section: Mapping[str, Any], splits: Splits, support: str, *, dtype: torch.dtype = torch.float32
    ) -> "Preprocess":
        """Learn mean and variance from the training images. DataError: see ``preprocessing.conflicts``."""
        facts = {"channels": splits.shape[0], "integers": splits.levels is not None}
        if problems := conflicts(Preprocessing.of(section), support, **facts):
            raise DataError("\n".join(problems))
        state = {"shape": list(splits.shape), "levels": splits.levels, "seed": splits.seed}
        unknown = {"mean": torch.zeros(math.prod(splits.shape)), "variance": 0.0}
        mean, variance = cls(section, support, state | unknown)._statistics(splits.train)
        state |= {"mean": mean, "variance": variance}
        return cls(section, support, state, dtype=dtype, device=splits.train.device)

    def state(self) -> dict[str, Any]:
        """The statistics learned from the data: plain values and one tensor."""
        return dict(self._state)

    @property
    def space_note(self) -> str:
        """A note on values that lack the Jacobian of a logit transform: `` (in model space)``, else empty."""
        return " (in model space)" if self._logit and not self.binary else ""

    @property
    def bits_per_dim_defined(self) -> bool:
        """True where the model is a density of dequantised integer pixels, the scale of bits/dim."""
        return self.preprocessing.dequantise and not self.binary

    def forward(
        self, images: Shaped[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch pixels"]:
        """x of a batch, its noise drawn from ``generator`` (on the images' device): for training."""
        return self._to_model_space(images, self._noise(images, generator), self.dtype) - self.shift

    def training_images(self, splits: Splits) -> Shaped[Tensor, "train channels height width"]:
        """The images that ``forward`` gets in training: the stored ones, or for ``binarise: static`` their fixed draw.

        The draw is stored as black and white images, which every later draw of ``forward`` leaves as they are.
        """
        if not (self.binary and self.preprocessing.binarise == "static"):
            return splits.train
        drawn = torch.empty_like(splits.train)
        for chunk in self._chunks(splits.train):
            images = splits.train[chunk]
            noise = self._fixed_noise("train", chunk).to(images.device)
            binary = self._to_model_space(images, noise, torch.float32)
            drawn[chunk] = (binary * self.top).view_as(images).to(drawn.dtype)
        return drawn

    def evaluation_set(
        self,
        images: Shaped[Tensor, "images channels height width"],
        name: Name,
        seed: int | None = None,
    ) -> Float[Tensor, "images pixels"]:
        """x of a whole split, or of its first images, with noise that is fixed by the data's seed.

        With ``fixed_evaluation: false`` it is fixed by ``seed`` instead, that of the run. ValueError: seed is None.
        """
        x = torch.empty(len(images), self.pixels, dtype=self.dtype, device=images.device)
        source = None
        if self.random and not self.preprocessing.fixed_evaluation:
            if seed is None:
                raise ValueError(
                    "dataset.fixed_evaluation=false: expected a seed for the fresh noise, got None"
                )
            source = generator(images.device, seed, f"{name} set")
        for chunk in self._chunks(images):
            batch = images[chunk]
            noise = self._fixed_noise(name, chunk) if source is None else self._noise(batch, source)
            noise = noise.to(images.device)
            x[chunk] = self._to_model_space(batch, noise, self.dtype) - self.shift
        return x

    def inverse(self, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch pixels"]:
        """Pixels y in [0, 1]; a model's predictions outside become black or white."""
        y = x + self.shift
        if self._logit:
            y = (torch.sigmoid(y) - self._lambda) / (1 - 2 * self._lambda)
        return y.clamp(0, 1)

    def images(self, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch channels height width"]:
        """``inverse`` in the shape of images."""
        return self.inverse(x).unflatten(1, self.shape)

    def log_abs_det_jacobian(self, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
        """log |det dx/du|, in nats: log p(u) = log p(x) + this. Zero for binary pixels, which have masses.

        dy/du = 1/levels (1/(levels-1) without dequantisation), and for the logit transform with s = sigmoid(x + mean)
        dx/dy = (1 - 2 lambda) / (s (1 - s)).
        """
        if self.binary:
            return torch.zeros_like(x[:, 0])
        constant = -self.log_scale
        if not self._logit:
            return torch.full_like(x[:, 0], constant)
        logit = x + self.shift
        constant += self.pixels * math.log1p(-2 * self._lambda)
        return constant - (F.logsigmoid(logit) + F.logsigmoid(-logit)).sum(1)

    def unit_log_jacobian(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """log |dx/dy| of pixels y in [0, 1]: log p(y) = log p(x) + this. Zero without a logit transform."""
        return self.log_abs_det_jacobian(x).cpu().double() + self.log_scale

    @property
    def log_scale(self) -> float:
        """log |det du/dy|: what turns the log-density of u into that of y in [0, 1]^pixels."""
        if self.binary:
            return 0.0
        scale = self.levels if self.levels and self.preprocessing.dequantise else self.top
        return self.pixels * math.log(scale)

    def _noise(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uniform on [0, 1), or empty if none is needed.

        Always float32, so that float32 and float64 runs see the same images.
        """
        shape = images.shape if self.random else (0,)
        return torch.rand(shape, generator=generator, device=images.device, dtype=torch.float32)

    def _fixed_noise(self, name: str, chunk: slice) -> Tensor:
        """The noise that belongs to these images: a function of the data's seed, the split and the position in it.

        The size of a chunk depends on nothing but the size of an image, and numbers are drawn in the order of images.
        """
        if not self.random:
            return torch.empty(0)
        source = frozen_random("noise", self.seed, name, chunk.start // self._chunk_size)
        shape = (chunk.stop - chunk.start, *self.shape)
        integers = source.randint(0, 2**24, size=shape, dtype=np.uint32)
        return torch.from_numpy(integers.astype(np.float32)) * 2.0**-24

    @property
    def _chunk_size(self) -> int:
        return max(1, CHUNK_PIXELS // self.pixels)

    def _chunks(self, images: Tensor) -> Iterator[slice]:
        size = self._chunk_size
        for start in range(0, len(images), size):
            yield slice(start, min(start + size, len(images)))

    def _to_model_space(
        self, images: Shaped[Tensor, "batch channels height width"], noise: Tensor, dtype: torch.dtype
    ) -> Float[Tensor, "batch pixels"]:
        """x before its mean is subtracted."""
        if self.binary:
            # compared in float32 whatever the dtype: float32 and float64 runs see the same binary images
            return (noise < images.to(torch.float32) / self.top).to(dtype).flatten(1)
        u = images.to(dtype).flatten(1)
        if self.preprocessing.dequantise:
            filling, levels = noise.flatten(1), self.top + 1
            # 1 - y from its own parts, not by subtraction: near white float32 would lose the digits lambda needs
            y, rest = (u + filling) / levels, ((self.top - u) + (1 - filling)) / levels
        else:
            y = u / self.top
            rest = 1 - y
        if not self._logit:
            return y
        slope = 1 - 2 * self._lambda
        return torch.log(self._lambda + slope * y) - torch.log(self._lambda + slope * rest)

    def _statistics(self, train: Tensor) -> tuple[Float[Tensor, " pixels"], float]:
        """Mean of each pixel, and variance around it averaged over pixels; on the CPU, summed in float64."""
        total = torch.zeros(self.pixels, dtype=torch.float64)
        squares = torch.zeros(self.pixels, dtype=torch.float64)
        for chunk in self._chunks(train):
            batch = train[chunk].cpu()
            if self.binary:  # E x = y and E x^2 = y: no draw is needed
                y = batch.flatten(1).double() / self.top
                total += y.sum(0)
                squares += y.sum(0)
            else:
                x = self._to_model_space(batch, self._fixed_noise("train", chunk), torch.float64)
                total += x.sum(0)
                squares += x.square().sum(0)
        mean = total / len(train)
        variance = float((squares / len(train) - mean.square()).mean())
        if not variance > 1e-12:
            raise DataError(f"the {len(train)} training images are all the same: there is nothing to learn")
        return mean, variance
