"""Preparation of a run: its data, its model, its images to score."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.checks import too_few_test_images
from vlae.config.problems import ConfigError, Problem
from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.data.datasets import DataError, Preprocess, Splits, preprocess
from vlae.distributions.posteriors import require_closed_form_kl, require_family_member
from vlae.estimation.proposals import needs_density
from vlae.experiment.build import build_model, select_device, use_threads
from vlae.experiment.trained_model import TrainedModel
from vlae.models.base import LatentVariableModel
from vlae.runs.directory import RunDirectory
from vlae.seeding import batch_noise, generator
from vlae.training.loop import Training
from vlae.training.training_set import TrainingSet


@dataclass
class Prepared:
    """A run that is ready for its first step, with nothing on disk yet."""

    config: Config
    model: LatentVariableModel
    preprocess: Preprocess
    images: Tensor
    selection_set: Float[Tensor, "selection pixels"]
    test_set: Float[Tensor, "test pixels"]
    """The images to score, in model space."""

    @property
    def device(self) -> torch.device:
        return self.test_set.device

    def training(self, directory: RunDirectory) -> Training:
        """The training, recorded in ``directory``."""
        return Training(
            model=self.model,
            optimizer=build(self.config.optimizer, params=self.model.parameters()),
            training_set=TrainingSet(self.images, self.preprocess),
            selection_set=self.selection_set,
            trainer=self.config.trainer,
            seed=self.config.seed,
            directory=directory,
        )

    def best_model(self, training: Training) -> TrainedModel:
        """The best epoch's model, once the training is finished."""
        self.model.load_state_dict(training.progress.best_model)
        return self.current_model(training)

    def current_model(self, training: Training) -> TrainedModel:
        """The model as it is now."""
        offset = self.preprocess.unit_log_jacobian(self.selection_set).mean().item()
        best = training.progress.best_elbo + offset
        return TrainedModel(
            self.model, self.preprocess, self.config, training.directory, training.progress, best
        )


def prepare(cfg: Config) -> Prepared:
    """Device, data, preprocessing and model of a configuration. Errors: DataError, ConfigError."""
    device, dtype = select_device(cfg.device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    use_threads(cfg)
    torch.manual_seed(cfg.seed)  # only a user's own model might draw from the global generator
    splits, support = build(cfg.dataset).to(device), build(cfg.output_dist).support
    to_model_space = preprocess(cfg.dataset, splits, support, dtype)
    x_test = test_set(to_model_space, splits, cfg)
    scored = images_to_score(x_test, cfg)
    if cfg.trainer.selection == "test":
        selection_set = x_test
    elif not len(splits.validation):  # unknown before for datasets with their own validation array
        raise DataError("trainer.selection=validation needs a validation set, and this dataset has none")
    else:
        source = generator(device, cfg.seed, "validation set")
        selection_set = to_model_space.evaluation_set(splits.validation, "validation", source)
    model = build_model(cfg, to_model_space.shape, to_model_space.variance, device, dtype)
    check_posterior(cfg, model, scored)
    images = to_model_space.training_images(splits)
    return Prepared(cfg, model, to_model_space, images, selection_set, scored)


@torch.no_grad()
def check_posterior(cfg: Config, model: LatentVariableModel, x: Float[Tensor, "images pixels"]) -> None:
    """ConfigError: a key needs a density or a closed-form KL that the model's posteriors lack."""
    evaluation = cfg.evaluate
    needs = {
        "trainer.objective": "iwae" if cfg.trainer.objective == "iwae" else None,
        "evaluate.proposals": next(filter(needs_density, evaluation.proposals), None),
        "evaluate.target_standard_error": evaluation.target_standard_error,
        "trainer.kl": "analytic" if cfg.trainer.kl == "analytic" else None,
    }
    asked = {key: value for key, value in needs.items() if value is not None}
    if not asked:
        return
    posterior, problems = model.posterior(x[:1], batch_noise(1, generator(x.device, 0, "check"), x.dtype)), []
    for key, value in asked.items():
        try:
            (require_closed_form_kl if key == "trainer.kl" else require_family_member)(posterior, str(value))
        except TypeError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise ConfigError(problems)


def test_set(preprocess: Preprocess, splits: Splits, cfg: Config) -> Float[Tensor, "images pixels"]:
    """All test images in model space; with ``fixed_evaluation: false`` their noise depends on the run's seed."""
    source = generator(splits.test.device, cfg.seed, "test set")
    return preprocess.evaluation_set(splits.test, "test", source)


def images_to_score(x_test: Float[Tensor, "images pixels"], cfg: Config) -> Float[Tensor, "scored pixels"]:
    """The first ``evaluate.num_images`` test images. ConfigError: there are fewer."""
    if problems := too_few_test_images(cfg.evaluate.num_images, len(x_test)):
        raise ConfigError(problems)
    return x_test[: cfg.evaluate.num_images]
