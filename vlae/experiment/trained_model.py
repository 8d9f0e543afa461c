"""A trained model: inference, reconstructions and samples, for images in the format of its dataset."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from vlae.config.schema import Config
from vlae.data.preprocess import Preprocess
from vlae.distributions.posteriors import Images, Posterior
from vlae.models.base import LatentVariableModel
from vlae.runs.directory import RunDirectory
from vlae.seeding import batch_noise, generator
from vlae.training.checkpoints import Progress


@dataclass(repr=False)
class TrainedModel:
    """The best epoch's model of a run, with the preprocessing of its images; `vlae.load` gives one, with an example."""

    model: LatentVariableModel
    preprocess: Preprocess
    config: Config
    directory: RunDirectory
    progress: Progress
    best_elbo: float | None
    """ELBO of the selection set, in nats of pixels in [0, 1]; None if the images are not loaded."""

    def __repr__(self) -> str:
        results = self.directory.results() or {}
        elbo = results.get("test", {}).get("elbo")
        said = f", test ELBO {elbo:.2f} nats" if isinstance(elbo, float) else ""
        names = f"{self.config.model['name']} on {self.config.dataset['name']}"
        return f"<TrainedModel {self.directory.run_id}: {names}, epoch {self.progress.best_epoch}{said}>"

    @property
    def decoder(self) -> torch.nn.Module:
        """The decoder f, [..., latent] -> [..., pixels] in model space: means or logits of the output distribution."""
        return self.model.decoder

    @property
    def device(self) -> torch.device:
        """The device of the weights, where tensors given to the methods have to be."""
        return next(self.model.parameters()).device

    @property
    def results(self) -> dict[str, Any] | None:
        """The content of results.json; None if the run is not done. RecordError: it cannot be read."""
        return self.directory.results()

    def to_model_space(self, images: Shaped[Tensor, "..."], seed: int = 0) -> Tensor:
        """x [batch, pixels] of images in the dataset's format: uint8 in 0..levels-1, or floats in [0, 1].

        ValueError: images of another shape, type or range.
        """
        shape, levels = self.preprocess.shape, self.preprocess.levels
        top, dtype = (levels - 1, "uint8") if levels else (1, "float32")
        right = images.shape[1:] == shape and (images.dtype == torch.uint8) == (levels is not None)
        if not right or images.min() < 0 or images.max() > top:
            raise ValueError(
                f"images: expected {dtype} [batch, {', '.join(map(str, shape))}] from 0 to {top}, got "
                f"{images.dtype} {list(images.shape)} from {images.min().item()} to {images.max().item()}"
            )
        images = images.to(self.device)
        return self.preprocess.forward(images, generator(self.device, seed, "load"))

    def posterior(self, x: Images, seed: int = 0) -> Posterior:
        """q(z | x) for x [batch, pixels] in model space; ``seed`` is that of inference that is itself random."""
        return self.model.posterior(
            x, batch_noise(len(x), generator(self.device, seed, "posterior"), x.dtype)
        )

    @torch.no_grad()
    def reconstruct(self, x: Images, seed: int = 0) -> Tensor:
        """E[x | z] for one z ~ q(z | x) each, as images in [0, 1], [batch, channels, height, width]."""
        posterior = self.posterior(x, seed)
        noise = batch_noise(len(x), generator(self.device, seed, "reconstruct"), x.dtype)
        z, _ = posterior.rsample_with_log_prob(noise(1, posterior.noise_dim))
        return self.preprocess.images(self.model.output.mean(self.model.decoder(z[0])))

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0) -> Tensor:
        """E[x | z] for z ~ N(0, I), as images in [0, 1], [num, channels, height, width]."""
        source = generator(self.device, seed, "prior")
        dtype = self.preprocess.dtype
        z = torch.randn(num, self.model.latent_dim, generator=source, device=self.device, dtype=dtype)
        return self.preprocess.images(self.model.output.mean(self.model.decoder(z)))
