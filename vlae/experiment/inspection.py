"""Inference of a trained model for its test images, as arrays: covariances, refinements, estimates, latent paths."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.targets import build
from vlae.distributions.flows import is_gaussian
from vlae.distributions.laplace import find_modes
from vlae.estimation.estimators.importance import evaluate
from vlae.experiment.load import load
from vlae.experiment.prepare import images_to_score, test_set, use_threads
from vlae.experiment.trained_model import TrainedModel
from vlae.seeding import Noise, generator, image_noise

DRAWN = 20_000
"""Samples that a covariance without a closed form is estimated from."""
MAX_STEPS = 60
"""Steps of the search for a mode, as `vlae.distributions.laplace.find_modes` has them."""

Array = np.ndarray


@dataclass(frozen=True)
class Refinements:
    """Reconstructions before the first refinement of inference, after it, ..., and after the last."""

    pictures: Float[Array, "steps images height width *channels"]
    """E[x | mu_t] in [0, 1]."""
    errors: Float[Array, "steps images"]
    """Their mean squared difference from the image."""


@dataclass(frozen=True)
class LatentPaths:
    """Paths of inference for one image, in a latent space of two dimensions, and q(z | x)."""

    updates: Float[Array, "points 2"]
    """The model's own; empty if it has none."""
    search: Float[Array, "others 2"]
    """The evaluation's search for the mode, from the model's own guess."""
    mean: Float[Array, "2"]
    covariance: Float[Array, "2 2"]
    """Covariance of q(z | x)."""


class Inspection:
    """A trained model with the test images that it was scored on.

    Posteriors are those of the evaluation: if inference itself is random, its noise is the same.
    """

    def __init__(self, trained: TrainedModel, x: Float[Tensor, "images pixels"]) -> None:
        self.trained, self.model, self.x = trained, trained.model, x

    def pictures(self, images: int) -> Float[Array, "images height width *channels"]:
        """The first test images, in [0, 1]."""
        return _picture(self.trained.preprocess.images(self.x[:images]))

    @torch.no_grad()
    def covariances(self, images: int) -> Float[Array, "images latent latent"]:
        """Covariances of q(z | x) for the first test images: exact for a Gaussian, else of DRAWN samples."""
        return np.stack([self._moments(i)[1] for i in range(min(images, len(self.x)))])

    @torch.no_grad()
    def refinements(self, images: int) -> Refinements | None:
        """The refinements of the first test images. None: this model's inference refines nothing."""
        images = min(images, len(self.x))
        size = 1 if self.model.batch_dependent else images
        groups = (slice(start, min(start + size, images)) for start in range(0, images, size))
        if not (found := list(filter(None, map(self._refinements, groups)))):
            return None
        pictures, errors = zip(*found, strict=True)
        return Refinements(np.concatenate(pictures, 1), np.concatenate(errors, 1))

    def _refinements(self, group: slice) -> tuple[Array, Array] | None:
        x = self.x[group]
        path = self.model.refinements(x, self._noise(group))
        if not path:
            return None
        shown = [
            self.trained.preprocess.inverse(self.model.output.mean(self.model.decoder(mu))) for mu in path
        ]
        images = self.trained.preprocess.inverse(x)
        errors = [(each - images).double().square().mean(-1).numpy() for each in shown]
        pictures = [_picture(each.unflatten(1, self.trained.preprocess.shape)) for each in shown]
        return np.stack(pictures), np.stack(errors)

    def estimates(
        self, proposal: str, images: int, sizes: Sequence[int]
    ) -> tuple[Float[Array, " sizes"], Float[Array, " sizes"]]:
        """Mean log-likelihood of the first test images, in nats of pixels in [0, 1], for each number of samples.

        And its Monte Carlo standard error for these images, NaN for one sample. The samples are those of an evaluation
        with that number.
        """
        x, cfg = self.x[:images], self.trained.config
        jacobian = self.trained.preprocess.unit_log_jacobian(x)
        how: dict[str, Any] = {"memory_budget": cfg.evaluate.memory_budget, "seed": cfg.seed}
        means, errors = [], []
        for size in sizes:
            found = evaluate(self.model, x, proposal=proposal, num_samples=size, **how)
            means.append((found.log_likelihood + jacobian).mean().item())
            error = found.monte_carlo_error.square().sum().sqrt().item() / len(x)
            errors.append(error if size > 1 else math.nan)
        return np.array(means), np.array(errors)

    @torch.no_grad()
    def latent_paths(self, image: int) -> LatentPaths:
        """Latent paths of one test image, in a latent space of two dimensions."""
        one = slice(image, image + 1)
        x = self.x[one]
        updates, q = self.model.refinements(x, self._noise(one)), self.model.posterior(x, self._noise(one))
        zero = torch.zeros(1, 1, q.noise_dim, dtype=x.dtype, device=x.device)
        start = q.rsample_with_log_prob(zero)[0][0]
        path = torch.cat(updates).double().numpy() if updates else np.empty((0, 2))
        return LatentPaths(path, self._search(x, start), *self._moments(image))

    def log_joint(self, image: int) -> Callable[[Float[Array, "points latent"]], Float[Array, " points"]]:
        """z -> log p(x, z) of one test image, in model space: log p(z | x) but for a constant."""

        @torch.no_grad()
        def value(z: Float[Array, "points latent"]) -> Float[Array, " points"]:
            at = torch.from_numpy(z).to(self.x)
            return self.model.log_joint(self.x[image].expand(len(at), -1), at).double().numpy()

        return value

    def _search(self, x: Tensor, start: Tensor) -> Float[Array, "points latent"]:
        """End points of searches with at most 0, 1, 2, ... steps."""
        path = [start]
        for steps in range(1, MAX_STEPS + 1):
            modes = find_modes(self.model.output, self.model.decoder, x, start, max_steps=steps)
            if not torch.equal(modes.z, path[-1]):
                path.append(modes.z)
            if bool(modes.converged | modes.stalled):
                break
        return torch.cat(path).double().numpy()

    def _moments(self, image: int) -> tuple[Float[Array, " latent"], Float[Array, "latent latent"]]:
        """Mean and covariance of q(z | x)."""
        one = slice(image, image + 1)
        q = self.model.posterior(self.x[one], self._noise(one))
        if is_gaussian(q):  # then points with the moments of the noise have those of q
            points = q.noise_dim**0.5 * torch.eye(q.noise_dim, dtype=self.x.dtype)
            noise = torch.cat([points, -points]).unsqueeze(1)
        else:
            source = generator("cpu", self.trained.config.seed, "moments", image)
            noise = torch.randn(DRAWN, 1, q.noise_dim, generator=source, dtype=self.x.dtype)
        z = q.rsample_with_log_prob(noise)[0][:, 0].double()
        mean = z.mean(0)
        return mean.numpy(), ((z - mean).T @ (z - mean) / len(z)).numpy()

    def _noise(self, group: slice) -> Noise:
        """The noise that `vlae.estimation.estimators.importance.evaluate` gives to inference."""
        seed = self.trained.config.seed
        sources = [generator(self.x.device, seed, "evaluate", i) for i in range(group.start, group.stop)]
        return image_noise(sources, self.x.dtype)


def _picture(images: Float[Tensor, "images channels height width"]) -> Array:
    """Images with three channels last, or with none."""
    if images.shape[1] == 3:
        return images.permute(0, 2, 3, 1).double().numpy()
    return images.mean(1).double().numpy()


class Library:
    """Trained models with their test images; a dataset that several models share is read once."""

    def __init__(self) -> None:
        self._splits: dict[str, Any] = {}

    def inspect(self, run: str) -> Inspection:
        """The trained model of a run directory. RecordError: there is none; DataError: the images are not there."""
        trained = load(run)
        cfg = trained.config
        use_threads(cfg)
        dataset = repr(cfg.dataset)
        if dataset not in self._splits:
            self._splits[dataset] = build(cfg.dataset)
        x = test_set(trained.preprocess, self._splits[dataset], cfg)
        return Inspection(trained, images_to_score(x, cfg))
