"""A model built from its configuration, and a trained one loaded back from its run directory."""

import math
import warnings
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vlae import checkpoint, config, data, record
from vlae.distributions import Posterior, family_member, with_closed_form_kl
from vlae.evaluate import unit_log_jacobian
from vlae.files import check_inside
from vlae.model_space import Preprocess
from vlae.models.base import LatentVariableModel
from vlae.networks import adapt_to_input_variance, initialise
from vlae.preprocessing import Preprocessing
from vlae.problems import Problem
from vlae.seeding import batch_noise, generator
from vlae.splits import Splits
from vlae.train import Progress, Schedule, Training


def select_device(name: str, precision: str) -> torch.device:
    """The device of a checked configuration; ``auto`` is the best there is."""
    return torch.device(config.available_devices(precision)[0] if name == "auto" else name)


def build_model(
    cfg: config.Config,
    image_shape: tuple[int, int, int],
    variance: float,
    device: torch.device,
    dtype: torch.dtype,
) -> LatentVariableModel:
    """The untrained model: weights drawn from the run's seed on the CPU, so that every device starts alike.

    ``image_shape``: channels, height, width; ``variance`` is that of a pixel of the training images in model space.
    ConfigError: images for which the model cannot be built.
    """
    output = config.build(cfg.output_dist)
    output.initialise(variance)
    model = config.build(cfg.model, pixels=math.prod(image_shape), image_shape=image_shape, output=output)
    initialise(model, cfg.trainer.initialisation, generator("cpu", cfg.seed, "initialise"))
    if cfg.trainer.initialisation == "paper":
        adapt_to_input_variance(model.encoder, variance, model.latent_dim)
    return model.to(device=device, dtype=dtype)


@dataclass(repr=False)
class TrainedModel:
    """What a run has learned: the best epoch's model and the preprocessing that leads to it and back."""

    model: LatentVariableModel
    preprocess: Preprocess
    config: config.Config
    directory: record.RunDirectory
    progress: Progress
    best_elbo: float | None
    """Of the selection set, in nats of pixels in [0, 1]; None where the images are not at hand."""

    def __repr__(self) -> str:
        results = self.directory.results() or {}
        elbo = results.get("test", {}).get("elbo")
        said = f", test ELBO {elbo:.2f} nats" if isinstance(elbo, float) else ""
        names = f"{self.config.model['name']} on {self.config.dataset['name']}"
        return f"<TrainedModel {self.directory.run_id}: {names}, epoch {self.progress.best_epoch}{said}>"

    @property
    def space(self) -> str:
        return model_space_note(self.preprocess)

    @property
    def decoder(self) -> torch.nn.Module:
        return self.model.decoder

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def results(self) -> dict[str, Any] | None:
        return self.directory.results()

    def to_model_space(self, images: Shaped[Tensor, "..."], seed: int = 0) -> Tensor:
        """x [batch, pixels] of images as the dataset stores them: uint8 in 0..levels-1, or floats in [0, 1].

        ValueError: images of another shape, type or range.
        """
        shape, levels = self.preprocess.shape, self.preprocess.levels
        top, dtype = (levels - 1, "uint8") if levels else (1, "float32")
        right = images.shape[1:] == shape and (images.dtype == torch.uint8) == (levels is not None)
        if not right or images.min() < 0 or images.max() > top:
            raise ValueError(
                f"images: expected {dtype} [batch, {', '.join(map(str, shape))}] from 0 to {top}, came "
                f"{images.dtype} {list(images.shape)} from {images.min().item()} to {images.max().item()}"
            )
        images = images.to(self.device)
        return self.preprocess.forward(images, generator(self.device, seed, "load"))

    def posterior(self, x: Float[Tensor, "batch pixels"], seed: int = 0) -> Posterior:
        """q(z | x) for x in model space."""
        return self.model.posterior(
            x, batch_noise(len(x), generator(self.device, seed, "posterior"), x.dtype)
        )

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "batch pixels"], seed: int = 0) -> Tensor:
        """Images in [0, 1] of E[x | z] for one z ~ q(z | x) each."""
        posterior = self.posterior(x, seed)
        noise = batch_noise(len(x), generator(self.device, seed, "reconstruct"), x.dtype)
        z, _ = posterior.rsample_with_log_prob(noise(1, posterior.noise_dim))
        return self.preprocess.images(self.model.output.mean(self.model.decoder(z[0])))

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0) -> Tensor:
        """Images in [0, 1] of E[x | z] for z ~ N(0, I)."""
        source = generator(self.device, seed, "prior")
        dtype = self.preprocess.dtype
        z = torch.randn(num, self.model.latent_dim, generator=source, device=self.device, dtype=dtype)
        return self.preprocess.images(self.model.output.mean(self.model.decoder(z)))


@dataclass
class Prepared:
    """A run that is ready for its first step: nothing of it is on disk yet."""

    config: config.Config
    model: LatentVariableModel
    preprocess: Preprocess
    images: Tensor
    selection_set: Float[Tensor, "selection pixels"]
    test_set: Float[Tensor, "test pixels"]
    """The images to score, in model space."""

    @property
    def device(self) -> torch.device:
        return self.test_set.device

    @property
    def space(self) -> str:
        return model_space_note(self.preprocess)

    def training(self, directory: record.RunDirectory) -> Training:
        """The training, recorded in ``directory``."""
        trainer = self.config.trainer
        return Training(
            model=self.model,
            optimizer=config.build(self.config.optimizer, params=self.model.parameters()),
            images=self.images,
            preprocess=self.preprocess,
            selection_set=self.selection_set,
            selection_name=trainer.selection,
            schedule=Schedule(**{field.name: getattr(trainer, field.name) for field in fields(Schedule)}),
            seed=self.config.seed,
            directory=directory,
        )

    def trained(self, training: Training) -> TrainedModel:
        """The best epoch's model, once the training is finished."""
        self.model.load_state_dict(training.progress.best_model)
        return self.so_far(training)

    def so_far(self, training: Training) -> TrainedModel:
        """The model as it is now."""
        offset = unit_log_jacobian(self.preprocess, self.selection_set).mean().item()
        best = training.progress.best_elbo + offset
        return TrainedModel(
            self.model, self.preprocess, self.config, training.directory, training.progress, best
        )


def prepare(cfg: config.Config) -> Prepared:
    """Device, data, preprocessing and model of a configuration. DataError, ConfigError: what is wrong with them."""
    device, dtype = select_device(cfg.device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    use_threads(cfg)
    torch.manual_seed(cfg.seed)  # nothing of ours draws from the global generator; a user's model might
    splits, support = config.build(cfg.dataset).to(device), config.build(cfg.output_dist).support
    preprocess = data.preprocess(cfg.dataset, splits, support, dtype)
    x_test = test_set(preprocess, splits, cfg)
    scored = images_to_score(x_test, cfg)
    if cfg.trainer.selection == "test":
        selection_set = x_test
    elif not len(splits.validation):  # known before only for datasets without a validation array of their own
        raise data.DataError("trainer.selection=validation needs a validation set, and this dataset has none")
    else:
        source = generator(device, cfg.seed, "validation set")
        selection_set = preprocess.evaluation_set(splits.validation, "validation", source)
    model = build_model(cfg, preprocess.shape, preprocess.variance, device, dtype)
    check_posterior(cfg, model, scored)
    images = preprocess.training_images(splits)
    return Prepared(cfg, model, preprocess, images, selection_set, scored)


@torch.no_grad()
def check_posterior(
    cfg: config.Config, model: LatentVariableModel, x: Float[Tensor, "images pixels"]
) -> None:
    """ConfigError: a key needs posteriors that can do more than be sampled from, and those of the model cannot."""
    evaluation = cfg.evaluate
    needs = {
        "trainer.objective": "iwae" if cfg.trainer.objective == "iwae" else None,
        "evaluate.proposals": "mixture" if "mixture" in evaluation.proposals else None,
        "evaluate.target_standard_error": evaluation.target_standard_error,
        "trainer.kl": "analytic" if cfg.trainer.kl == "analytic" else None,
    }
    asked = {key: value for key, value in needs.items() if value is not None}
    if not asked:  # inference is spared, and a model's own way to fail in it
        return
    posterior, problems = model.posterior(x[:1], batch_noise(1, generator(x.device, 0, "check"), x.dtype)), []
    for key, value in asked.items():
        try:
            (with_closed_form_kl if key == "trainer.kl" else family_member)(posterior, str(value))
        except TypeError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise config.ConfigError(problems)


def use_threads(cfg: config.Config) -> None:
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)


def test_set(preprocess: Preprocess, splits: Splits, cfg: config.Config) -> Float[Tensor, "images pixels"]:
    """All test images in model space; with ``fixed_evaluation: false`` their noise follows from the run's seed."""
    source = generator(splits.test.device, cfg.seed, "test set")
    return preprocess.evaluation_set(splits.test, "test", source)


def images_to_score(
    x_test: Float[Tensor, "images pixels"], cfg: config.Config
) -> Float[Tensor, "scored pixels"]:
    """The first ``evaluate.num_images`` test images. ConfigError: there are not so many."""
    if problems := config.too_few_test_images(cfg.evaluate.num_images, len(x_test)):
        raise config.ConfigError(problems)
    return x_test[: cfg.evaluate.num_images]


def model_space_note(preprocess: Preprocess) -> str:
    """Said beside figures that lack the Jacobian of a logit transform."""
    return " (in model space)" if preprocess.preprocessing.logit_transform and not preprocess.binary else ""


def load(run: str, runs_dir: str = "runs", device: str = "cpu") -> TrainedModel:
    """The best epoch's model of a run, finished or not, without its data.

    RecordError: no such run, no checkpoint yet, a damaged one, or one that wants to execute code.
    """
    directory = record.find(runs_dir, run)
    cfg = config.validate({**directory.config(), "device": device}, to_run=False)
    state, damages = checkpoint.load(check_inside(directory.path, "checkpoints"))
    for text in damages:
        warnings.warn(text, stacklevel=3)
    if state is None or not state["progress"]["best_model"]:
        raise record.RecordError(f"{directory.path} has no trained model yet (state: {directory.state()})")
    where, dtype = select_device(device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    output = config.build(cfg.output_dist)
    preprocess = Preprocess.restore(
        Preprocessing.of(cfg.dataset), state["preprocess"], output.support, dtype=dtype, device=where
    )
    model = build_model(cfg, preprocess.shape, preprocess.variance, where, dtype)
    model.load_state_dict(state["progress"]["best_model"])
    progress = Progress(**state["progress"])
    return TrainedModel(model, preprocess, cfg, directory, progress, None)
